"""What a causal attention mask lets queries see, read from the mask itself and never guessed from lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

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
        window: how many keys up to its own a query sees at most; None where it sees all.
        spans: of each sample, the first key and the one behind the last; None where no sample is padded.
    """

    kv_len: int
    window: int | None = None
    spans: tuple[tuple[int, int], ...] | None = None


def read_visible(mask: Tensor | None, q_len: int, kv_len: int, window: int | None = None) -> Visible | str:
    """What the M queries of a causal call see of N keys, or why `Visible` cannot say it.

    One device read for each new mask; the layers of one forward share a mask, and the answer.

    Args:
        window: the window that the mask is to show, if it is of a layer that has one.
        mask: [B, 1, M, N], booleans, True where a query sees a key, or what is added to its logits: 0 there,
            and the lowest number of the type or less elsewhere. None means what it does to transformers: a
            single query sees every key; several are causal from the first key on, and keys behind the last
            of them are not written yet.
    """
    if mask is None and window is not None:
        return NOT_CAUSAL
    if mask is None and q_len == 1:
        return Visible(kv_len)
    if mask is None:
        return Visible(min(q_len, kv_len))
    if not _is_of(mask, q_len, kv_len):
        return NOT_CAUSAL
    return _remembered(mask, window, _read)


def visible_keys(mask: Tensor | None, q_len: int, kv_len: int) -> Tensor | str | None:
    """The keys that a few queries after a cache see, bool [B, M, N], or why they are not known.

    None means every key, for a single query; several without a mask are a prompt and no decoding. Reads no
    device where the mask is one of booleans. One that is added to logits is read once, for numbers other than
    0 and "hidden".
    """
    if mask is None:
        return None if q_len == 1 else NOT_CAUSAL
    if not _is_of(mask, q_len, kv_len):
        return NOT_CAUSAL
    if mask.dtype == torch.bool:
        return mask[:, 0]
    if mask.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return NOT_CAUSAL
    return _remembered(mask, None, _only_hides) or _as_seen(mask)[:, 0]


# What was read belongs to the mask, in the state in which it was read, and is freed with it.
_READ: WeakIdKeyDictionary = WeakIdKeyDictionary()
T = TypeVar("T")


def _remembered(mask: Tensor, window: int | None, read: Callable[[Tensor, int | None], T]) -> T:
    """What `read` says of a mask, read once."""
    if mask.is_inference():
        return read(mask, window)
    question = read, window
    version, answers = _READ.get(mask, (None, {}))
    if version != mask._version:
        version, answers = mask._version, {}
    if question not in answers:
        answers = {**answers, question: read(mask, window)}
        _READ[mask] = version, answers
    return answers[question]


def _is_of(mask: Tensor, q_len: int, kv_len: int) -> bool:
    """Whether a mask has the shape and type of one that hides keys from queries in all heads alike."""
    kind = mask.dtype == torch.bool or mask.dtype.is_floating_point
    return kind and mask.ndim == 4 and mask.shape[1:] == (1, q_len, kv_len)


def _as_seen(mask: Tensor) -> Tensor:
    """Bool like the mask, True where a query sees a key."""
    return mask if mask.dtype == torch.bool else mask == 0


def _only_hides(mask: Tensor, window: int | None) -> str | None:
    """Why a mask that is added to logits is not a mask of booleans; None if it is."""
    hides = (mask == 0) | (mask <= torch.finfo(mask.dtype).min)
    return None if hides.all() else NOT_CAUSAL


def _read(mask: Tensor, window: int | None) -> Visible | str:
    if mask.dtype != torch.bool:
        unlike = _only_hides(mask, None)
        return unlike or _read(_as_seen(mask), window)
    _, _, q_len, kv_len = mask.shape
    starts, ends, offset = _spans(mask)
    if window is not None:
        # Where the window of the first query begins, no sample need begin.
        starts = torch.where(starts <= offset - window + 1, 0, starts)
    same = _is_causal(mask, offset, starts, ends, window)
    (is_causal, place), *spans = torch.cat(
        [torch.stack([same.long(), offset])[None], torch.stack([starts, ends], dim=1)]
    ).tolist()
    end = place + q_len
    if not is_causal or not q_len <= end <= kv_len:
        return NOT_CAUSAL
    padded = any(span != [0, end] for span in spans)
    return Visible(end, window, tuple(map(tuple, spans)) if padded else None)


def _spans(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sample the first key that some query sees, and the one behind the last, int64 [B] each; and the
    position of the first query, a scalar.

    No query sees a key behind its own, and the first in a sample that sees any sees its own unless the sample
    has ended before it: the position is the largest that any sample shows. If all have ended, any will do.
    """
    keys = torch.arange(mask.shape[3], device=mask.device)
    seen = mask[:, 0].any(dim=1)
    first_row = mask[:, 0].any(dim=2).long().argmax(dim=1)
    row = mask[torch.arange(len(mask), device=mask.device), 0, first_row]
    last_key = torch.where(row, keys, -1).amax(dim=1)
    starts, ends = seen.long().argmax(dim=1), torch.where(seen, keys + 1, 0).amax(dim=1)
    # A sample without any key shows nothing.
    offset = torch.where(ends > 0, last_key - first_row, -1).amax()
    return starts, ends, offset


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
