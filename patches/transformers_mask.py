"""What a causal attention mask lets queries see, read from the mask itself and never guessed from lengths."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

CHUNK_ELEMENTS = 1 << 26
NOT_CAUSAL = "a mask other than causal"


class Visible(NamedTuple):
    """Query r of M sees the keys up to position `kv_len` - M + r, of sample b those before `kv_lengths[b]`.

    Args:
        kv_len: keys that any query may see; what lies behind them (a static cache's unwritten end) is to be
            cut off.
        kv_lengths: int32 [B], or none where no sample is padded on the right.
    """

    kv_len: int
    kv_lengths: Tensor | None = None


def read_visible(mask: Tensor | None, q_len: int, kv_len: int) -> Visible | str:
    """What the M queries of a causal call see of N keys, or why `Visible` cannot say it.

    One device read for each new mask; the layers of one forward share a mask, and the answer.

    Args:
        mask: bool [B, 1, M, N], True where a query sees a key. None means what it does to transformers: a
            single query sees every key; several are causal from the first key on, and keys behind the last
            of them are not written yet.
    """
    if mask is None and q_len == 1:
        return Visible(kv_len)
    if mask is None:
        return Visible(min(q_len, kv_len))
    if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1:] != (1, q_len, kv_len):
        return NOT_CAUSAL
    if mask.is_inference():
        return _read(mask)
    version, answer = _READ.get(mask, (None, ""))
    if version != mask._version:
        answer = _read(mask)
        _READ[mask] = (mask._version, answer)
    return answer


def visible_keys(mask: Tensor | None, q_len: int, kv_len: int) -> Tensor | str | None:
    """The keys that a few queries after a cache see, bool [B, M, N], or why they cannot be told.

    None means every key, for a single query; several without a mask are a prompt and no decoding. No device
    read.
    """
    if mask is None:
        return None if q_len == 1 else NOT_CAUSAL
    if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1:] != (1, q_len, kv_len):
        return NOT_CAUSAL
    return mask[:, 0]


_READ: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _read(mask: Tensor) -> Visible | str:
    _, _, q_len, kv_len = mask.shape
    offset = mask[:, 0, 0].sum(dim=-1).amax() - 1
    lengths = mask[:, 0, -1].sum(dim=-1)
    causal = _is_causal(mask, offset, lengths)
    end, shortest, is_causal = torch.stack([offset + q_len, lengths.amin(), causal.long()]).tolist()
    if not is_causal or not q_len <= end <= kv_len:
        return NOT_CAUSAL
    return Visible(end, lengths.int() if shortest < end else None)


def _is_causal(mask: Tensor, offset: Tensor, lengths: Tensor) -> Tensor:
    """Whether query r of sample b sees the keys up to r + `offset` and before `lengths[b]`, and no others."""
    batch, _, q_len, kv_len = mask.shape
    keys = torch.arange(kv_len, device=mask.device)
    exists = (keys < lengths[:, None])[:, None]  # [B, 1, N]
    same = torch.ones((), dtype=torch.bool, device=mask.device)
    rows = max(1, CHUNK_ELEMENTS // (batch * kv_len))
    for first in range(0, q_len, rows):
        part = mask[:, 0, first : first + rows]
        last_key = torch.arange(first, first + part.shape[1], device=mask.device) + offset
        same &= (part == (exists & (keys <= last_key[:, None]))).all()
    return same
