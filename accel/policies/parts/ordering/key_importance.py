"""Key importance: the attention that a few probe queries pay to each key, and key orders sorted by it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

GATE_MASS = 0.95
GATE_SAVING = 0.1
CHUNK_ELEMENTS = 1 << 26


def key_order(probes: Tensor, k: Tensor, segments: range, gate_block: int | None = None) -> Tensor:
    """Int64 [B, Hkv, N]: the keys of every whole segment by falling importance, ties in order; others stay.

    Importance is the mean of the probes' attention, over the query heads that share the keys; it is taken
    without a causal mask, over the keys before the end of the last segment.

    Args:
        probes: queries, [B, H, P, D].
        k: [B, Hkv, N, D].
        segments: the first keys of the segments; `segments.stop` is the end of the last one.
        gate_block: keys of a block. A head's keys stay in place unless sorting them saves a tenth of the
            blocks that the probes need for most of their attention. None sorts always.
    """
    heads_at_once = max(1, CHUNK_ELEMENTS // (len(probes) * probes.shape[2] * k.shape[2]))
    groups = probes.shape[1] // k.shape[1]
    probes = probes.unflatten(1, (k.shape[1], groups))  # [B, Hkv, group, P, D]
    parts = []
    for first in range(0, k.shape[1], heads_at_once):
        heads = slice(first, first + heads_at_once)
        parts.append(_order_of_heads(probes[:, heads].flatten(2, 3), k[:, heads], segments, gate_block))
    return torch.cat(parts, dim=1)


def _order_of_heads(probes: Tensor, k: Tensor, segments: range, gate_block: int | None) -> Tensor:
    seen = k[:, :, : segments.stop]
    logits = (probes * k.shape[3] ** -0.5) @ seen.transpose(-1, -2)
    attention = logits.softmax(dim=-1, dtype=torch.float32)  # [B, Hkv, group * P, keys]
    order = _sort_segments(attention.mean(dim=2), segments, k.shape[2])
    if gate_block is None:
        return order
    in_place = torch.arange(k.shape[2], device=k.device).expand_as(order)
    sorted_attention = attention.gather(3, order[:, :, None, : segments.stop].expand_as(attention))
    needed, needed_sorted = (blocks_for_mass(a, gate_block) for a in (attention, sorted_attention))
    return torch.where((needed_sorted <= (1 - GATE_SAVING) * needed)[..., None], order, in_place)


def blocks_for_mass(attention: Tensor, block: int) -> Tensor:
    """Float32 [B, H]: the blocks of keys that hold most of a row's attention [B, H, P, N], mean over P."""
    blocks = pad(attention, (0, -attention.shape[3] % block)).unflatten(3, (-1, block)).sum(dim=4)
    reached = blocks.sort(dim=3, descending=True).values.cumsum(dim=3)
    return (reached < GATE_MASS * reached[..., -1:]).sum(dim=3).add(1).float().mean(dim=2)


def _sort_segments(importance: Tensor, segments: range, length: int) -> Tensor:
    """[B, H, keys] -> int64 [B, H, length]."""
    start, size = segments.start, segments.step
    whole = importance[..., start : segments.stop].unflatten(-1, (len(segments), size))
    inside = whole.argsort(dim=-1, descending=True, stable=True)
    firsts = torch.arange(start, segments.stop, size, device=importance.device)
    order = torch.arange(length, device=importance.device).repeat(*importance.shape[:2], 1)
    order[..., start : segments.stop] = (inside + firsts[:, None]).flatten(-2)
    return order
