"""The mass of blocks from representatives of their tokens, in chunks of bounded memory."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from accel.kernels.layout.blocks import per_head
from accel.kernels.planning.representatives import Representatives

Reduction = Literal["sum", "most", "strongest"]

CHUNK_ELEMENTS = 1 << 20  # of logits at once: 16 MiB stay in a CPU's cache
CHUNK_ELEMENTS_ON_GPU = 1 << 24  # a GPU should not be done with a chunk before the next is launched


def block_mass(
    queries: Representatives,
    keys: Representatives,
    block_size: tuple[int, int],
    causal: bool = False,
    may: Tensor | None = None,
    reduction: Reduction = "sum",
) -> Tensor:
    """Float32 [B, H, Mb, Nb] with rows summing to 1: softmax over all keys' representatives, each counting as
    many times as it represents tokens, added up over a block's columns and averaged over its rows.

    Args:
        block_size: (query rows, key rows), multiples of the rows of a group.
        causal: a group of keys counts only for groups of queries whose last token is not before its first.
        may: bool [Mb, Nb], blocks outside which keys do not count; None where all do.
        reduction: "most" takes the row that has most of a block instead of the average over its rows, so rows
            sum to more than 1. "strongest" takes the largest entry of a block.
    """
    per_block = block_size[0] // queries.groups.rows
    batch, heads, count, dim = queries.vectors.shape
    scale = (dim // queries.folds // queries.parts) ** -0.5 / queries.folds
    if queries.vectors.is_cuda and reduction in ("sum", "most"):
        from accel.kernels.planning.mass_triton import takes

        if takes(dim):
            return _on_gpu(queries, keys, block_size, scale, causal, may, reduction)
    # A vector common to all keys shifts a row's logits alike; without it they round less.
    common = keys.vectors.mean(dim=2, keepdim=True, dtype=torch.float32)
    centred = keys.vectors - common.to(keys.vectors.dtype)
    bias = None if keys.alike else _key_bias(keys, heads)
    at_once = CHUNK_ELEMENTS_ON_GPU if queries.vectors.is_cuda else CHUNK_ELEMENTS
    blocks_at_once = max(1, at_once // (batch * heads * keys.groups.count * per_block))
    per_column = block_size[1] // keys.groups.rows
    device = queries.vectors.device
    first_key = keys.groups.first(device)
    last_seen = queries.groups.last(device) + keys.groups.length - queries.groups.length
    parts = []
    for start in range(0, count, blocks_at_once * per_block):
        chunk = slice(start, min(start + blocks_at_once * per_block, count))
        # Keys that no row of the chunk sees are not even multiplied.
        seen = _seen(queries, keys, chunk.stop - 1) if causal else keys.groups.count
        seen = min(-(-seen // per_column) * per_column, keys.groups.count)
        logits = _logits(queries.vectors[:, :, chunk] * scale, centred[:, :, :seen])
        if bias is not None:
            logits.add_(bias[..., :seen])
        if causal:
            # Before these columns every row of the chunk sees all.
            of_all = slice(min(_seen(queries, keys, start), seen), seen)
            logits[..., of_all].masked_fill_(first_key[of_all] > last_seen[chunk, None], -torch.inf)
        if may is not None:
            logits.masked_fill_(~_of_groups(may, queries, keys, block_size)[chunk, :seen], -torch.inf)
        weights = logits.softmax(dim=-1)
        if not (keys.alike and may is None and queries.groups.length <= keys.groups.length):
            # A row without a single visible key is all -inf: its mass is 0, not NaN.
            weights.nan_to_num_(nan=0.0)
        part = _reduce(weights, per_block, per_column, reduction)
        parts.append(pad(part, (0, -(-keys.groups.count // per_column) - part.shape[3])))
    mass = torch.cat(parts, dim=2)
    return mass if reduction == "most" else mass / mass.sum(dim=-1, keepdim=True).clamp(min=1e-30)


def _on_gpu(
    queries: Representatives,
    keys: Representatives,
    block_size: tuple[int, int],
    scale: float,
    causal: bool,
    may: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """The same by `mass_triton.block_mass`, which keeps no logits."""
    from accel.kernels.planning.mass_triton import Causality, block_mass

    heads = queries.vectors.shape[1]
    bias = _key_bias(keys, heads)
    bias = bias.expand(*torch.broadcast_shapes(bias.shape, (1, 1, 1, 1)))[:, :, 0]
    per_block = block_size[0] // queries.groups.rows, block_size[1] // keys.groups.rows
    groups = queries.groups, keys.groups
    hidden = Causality(groups[0].rows, groups[1].rows, groups[0].length, groups[1].length)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(bias):
        return block_mass(
            queries.vectors, keys.vectors, bias, per_block, scale, hidden if causal else None, may,
            most=reduction == "most",
        )  # fmt: skip


def _logits(queries: Tensor, keys: Tensor) -> Tensor:
    """Float32 [B, H, R, C] of [B, H, R, D] and [B, Hkv, C, D]; query heads of a group share its keys."""
    batch, heads, rows, dim = queries.shape
    shared = queries.reshape(batch, keys.shape[1], -1, dim) @ keys.transpose(-1, -2)
    return shared.float().reshape(batch, heads, rows, -1)


def _key_bias(keys: Representatives, heads: int) -> Tensor:
    """Broadcasting to [B, H, 1, C]: the log of how many tokens each represents; -inf where absent."""
    bias = keys.counts.float().log()
    if keys.absent is None:
        return bias
    return bias.masked_fill(per_head(keys.absent, heads)[:, :, None], -torch.inf)


def _seen(queries: Representatives, keys: Representatives, row: int) -> int:
    """How many groups of keys the last token of a group of queries sees."""
    length = queries.groups.length
    last_query = min((row + 1) * queries.groups.rows, length) - 1 + keys.groups.length - length
    return min(max(last_query // keys.groups.rows + 1, 0), keys.groups.count)


def _of_groups(
    may: Tensor, queries: Representatives, keys: Representatives, block_size: tuple[int, int]
) -> Tensor:
    """[Mb, Nb] of blocks -> [R, C] of representatives."""
    rows = may.repeat_interleave(block_size[0] // queries.groups.rows, 0)[: queries.groups.count]
    return rows.repeat_interleave(block_size[1] // keys.groups.rows, 1)[:, : keys.groups.count]


def _reduce(weights: Tensor, rows: int, columns: int, reduction: Reduction) -> Tensor:
    """[B, H, R, C] -> [B, H, ceil(R / rows), ceil(C / columns)]."""
    count = weights.shape[2]
    if weights.shape[3] % columns:
        weights = pad(weights, (0, -weights.shape[3] % columns))
    cells = weights.unflatten(3, (-1, columns))
    cells = cells.amax(dim=4) if reduction == "strongest" else cells.sum(dim=4)
    cells = pad(cells, (0, 0, 0, -count % rows)).unflatten(2, (-1, rows))
    return cells.amax(dim=3) if reduction in ("most", "strongest") else cells.sum(dim=3)
