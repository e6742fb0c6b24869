"""What a causal attention mask lets queries see, read from the mask itself and never guessed from lengths."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

CHUNK_ELEMENTS = 1 << 26
NOT_CAUSAL = "a mask other than causal"


class Visible(NamedTuple):
    """Query r of M sees the keys up to position `kv_len` - M + r, the last `window` of them, and of those the
    ones between the padding of its sample.

    Args:
        kv_len: keys that any query may see; what lies behind them (a static cache's unwritten end) is to be
            cut off.
        window: how many keys up to its own a query sees at most; none where it sees all.
        spans: of each sample, the first key and the one behind the last; none where no sample is padded.
    """

    kv_len: int
    window: int | None = None
    spans: tuple[tuple[int, int], ...] | None = None


def read_visible(mask: Tensor | None, q_len: int, kv_len: int, window: int | None = None) -> Visible | str:
    """What the M queries of a causal call see of N keys, or why `Visible` cannot say it.

    One device read for each new mask; the layers of one forward share a mask, and the answer.

    Args:
        window: the window that the mask is to show, if it is of a layer that has one.
        mask: bool [B, 1, M, N], True where a query sees a key. None means what it does to transformers: a
            single query sees every key; several are causal from the first key on, and keys behind the last
            of them are not written yet.
    """
    if mask is None and window is not None:
        return NOT_CAUSAL
    if mask is None and q_len == 1:
        return Visible(kv_len)
    if mask is None:
        return Visible(min(q_len, kv_len))
    if mask.dtype != torch.bool or mask.ndim != 4 or mask.shape[1:] != (1, q_len, kv_len):
        return NOT_CAUSAL
    if mask.is_inference():
        return _read(mask, window)
    state = mask._version, window
    known, answer = _READ.get(mask, (None, ""))
    if known != state:
        answer = _read(mask, window)
        _READ[mask] = (state, answer)
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


def _read(mask: Tensor, window: int | None) -> Visible | str:
    _, _, q_len, kv_len = mask.shape
    starts, ends = _spans(mask)
    offset = ends.amax() - q_len
    if window is not None:
        # Where the window of the first query begins, no sample need begin.
        starts = torch.where(starts <= offset - window + 1, 0, starts)
    same = _is_causal(mask, offset, starts, ends, window)
    (is_causal, end), *spans = torch.cat(
        [torch.stack([same.long(), ends.amax()])[None], torch.stack([starts, ends], dim=1)]
    ).tolist()
    if not is_causal or not q_len <= end <= kv_len:
        return NOT_CAUSAL
    padded = any(span != [0, end] for span in spans)
    return Visible(end, window, tuple(map(tuple, spans)) if padded else None)


def _spans(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Int64 [B] each: the first key that some query of a sample sees, and the one behind the last."""
    keys = torch.arange(mask.shape[3], device=mask.device)
    seen = mask[:, 0].any(dim=1)
    return seen.long().argmax(dim=1), torch.where(seen, keys + 1, 0).amax(dim=1)


def _is_causal(mask: Tensor, offset: Tensor, starts: Tensor, ends: Tensor, window: int | None) -> Tensor:
    """Whether query r of sample b sees, of the keys from `starts[b]` to before `ends[b]`, those up to r +
    `offset`, the last `window` of them, and no others."""
    batch, _, q_len, kv_len = mask.shape
    keys = torch.arange(kv_len, device=mask.device)
    exists = ((keys >= starts[:, None]) & (keys < ends[:, None]))[:, None]  # [B, 1, N]
    same = torch.ones((), dtype=torch.bool, device=mask.device)
    rows = max(1, CHUNK_ELEMENTS // (batch * kv_len))
    for first in range(0, q_len, rows):
        part = mask[:, 0, first : first + rows]
        last_key = (torch.arange(first, first + part.shape[1], device=mask.device) + offset)[:, None]
        seen = keys <= last_key
        if window is not None:
            seen &= keys > last_key - window
        same &= (part == (exists & seen)).all()
    return same
