"""Block-sparse attention in PyTorch that really skips: gathers the listed key blocks, then dense attention.

Nothing is padded, and nothing masked but the blocks that causality or an order cuts. A row (a block of
queries of one head) that keeps its threads busy is attended to alone, head after head, so that the keys of a
head stay in the processor's cache; shorter rows with equally many visible keys are attended to together, in
chunks of bounded memory. The full blocks, the partial blocks and the tail of a row are attended to apart and
joined by their log-sum-exp.

The lengths of the lists are read on the host: free on a CPU; on another device each call waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from accel.kernels.attention.alone import product_for, rows_alone
from accel.kernels.attention.rows import Rows
from accel.kernels.attention.tail import tail_log_count, tail_means
from accel.kernels.attention.tier import Tier, runs_anywhere
from accel.kernels.layout.blocks import per_head
from accel.kernels.layout.layout import BlockLayout

CHUNK_BYTES_PER_THREAD = 2 << 20
QUERIES_AT_ONCE = 8192
QUERIES_PER_THREAD = 32  # what PyTorch's attention gives a thread of so few
LONG_ROW = 256  # keys; of fewer, the calls for row after row take longer than the work

# Rows [G], by number or as a slice, their out [G, rows, D] and LSE [G, rows].
Piece = tuple[Tensor | slice, Tensor, Tensor]


TIER = Tier("accel.kernels.attention.gathered", runs_anywhere)


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """What `reference.block_sparse_attention` computes, in time proportional to the layout's density."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    sequence = k, v
    q, k, v = layout.to_block_order(q, k, v)
    rows = Rows.cut(q, k, v, layout)
    wide = torch.promote_types(q.dtype, torch.float32)
    out = q.new_zeros(rows.q.shape, dtype=wide)
    lse = q.new_full(rows.q.shape[:2], -torch.inf, dtype=wide)
    alone, together = _full_rows(rows)
    if alone.any():
        rows_alone(rows, alone, scale, out, lse, _attend)
    for index, first_out, first_lse in chain(
        _whole_rows(rows, *sequence, scale), _rows_together(rows, together, scale)
    ):
        out[index], lse[index] = first_out.to(wide), first_lse
    tail = _tail(rows, k, v, layout, scale) if layout.tail else ()
    for index, more_out, more_lse in chain(_partial_blocks(rows, scale), tail):
        out[index], lse[index] = _join(out[index], lse[index], more_out, more_lse)
    out = layout.to_sequence_order(_tokens(out, q).to(q.dtype))
    return out, layout.to_sequence_order(_tokens(lse, q).float())


def _whole_rows(rows: Rows, k: Tensor, v: Tensor, scale: float) -> Iterator[Piece]:
    """Rows that see every key: nothing to gather, and all of a head's share its keys.

    Args:
        k, v: [B, Hkv, N, D], in the order of the sequence: so these rows equal dense attention, bit by bit.
    """
    index = (rows.full_keys == rows.kv_len).nonzero()[:, 0]
    heads, sizes = (index // rows.q_blocks).unique_consecutive(return_counts=True)
    for head, group in zip(heads.tolist(), index.split(sizes.tolist()), strict=True):
        sample, kv_head = divmod(head * k.shape[:2].numel() // rows.heads, k.shape[1])
        for chunk in group.split(max(1, QUERIES_AT_ONCE // rows.q.shape[1])):
            q = rows.q[chunk].flatten(0, 1)[None]
            out, lse = _attend(q, k[sample, kv_head, None], v[sample, kv_head, None], None, scale)
            yield chunk, out.view(len(chunk), *rows.q.shape[1:]), lse.view(len(chunk), -1)


def _full_rows(rows: Rows) -> tuple[Tensor, Tensor]:
    """Int64 [R] each: keys in full blocks of rows that run alone, and of rows that run together; else 0."""
    keys = torch.where(rows.full_keys == rows.kv_len, 0, rows.full_keys)
    threads = 1 if product_for(rows.q) else torch.get_num_threads()
    busy = rows.q.device.type == "cpu" and rows.q.shape[1] >= QUERIES_PER_THREAD * threads
    alone = keys.where(keys >= LONG_ROW, 0) if busy else torch.zeros_like(keys)
    return alone, keys - alone


def _rows_together(rows: Rows, counts: Tensor, scale: float) -> Iterator[Piece]:
    """The rows that have keys, `counts` [R] of them, those with as many in one call."""
    for keys, index in _equal(counts):
        blocks = -(-keys // rows.k.shape[1])
        for chunk in index.split(_rows_at_once(rows, keys)):
            k, v = rows.gather(rows.lists[chunk, :blocks])
            yield chunk, *_attend(rows.q[chunk], k[:, :keys], v[:, :keys], None, scale)


def _partial_blocks(rows: Rows, scale: float) -> Iterator[Piece]:
    for blocks, index in _equal(rows.partial_blocks):
        for chunk in index.split(_rows_at_once(rows, blocks * rows.k.shape[1])):
            slots = rows.full_blocks[chunk, None] + torch.arange(blocks, device=chunk.device)
            ids = rows.lists[chunk].gather(1, slots)
            bias = torch.where(rows.seen(chunk, ids), 0.0, -torch.inf)
            yield chunk, *_attend(rows.q[chunk], *rows.gather(ids), bias, scale)


def _tail(rows: Rows, k: Tensor, v: Tensor, layout: BlockLayout, scale: float) -> Iterator[Piece]:
    batch = k.shape[0]
    heads = rows.heads // batch
    means = [per_head(mean, heads).flatten(0, 1) for mean in tail_means(k, v, layout)]
    log_count = per_head(tail_log_count(layout), heads).expand(batch, -1, -1, -1).flatten(0, 1)
    for head, (mean_k, mean_v, biases) in enumerate(zip(*means, log_count, strict=True)):
        index = torch.arange(len(biases), device=k.device)
        for chunk in index.split(_rows_at_once(rows, layout.num_kv_blocks)):
            bias = biases[chunk, None].expand(-1, rows.q.shape[1], -1)
            here = head * len(biases) + chunk
            shape = (len(chunk), -1, -1)
            yield here, *_attend(rows.q[here], mean_k.expand(shape), mean_v.expand(shape), bias, scale)


def _equal(counts: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each value above zero in `counts` [R] with the indices of the rows that have it."""
    counts, index = counts.sort(stable=True)
    values, sizes = counts.unique_consecutive(return_counts=True)
    groups = zip(values.tolist(), index.split(sizes.tolist()), strict=True)
    return ((value, group) for value, group in groups if value > 0)


def _rows_at_once(rows: Rows, keys: int) -> int:
    """As many rows as keep the gathered keys and values in the processor's cache."""
    budget = CHUNK_BYTES_PER_THREAD * torch.get_num_threads()
    return max(1, budget // (2 * keys * rows.k.shape[2] * rows.k.itemsize))


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Dense attention of q [G, rows, D] to k, v [G, keys, D] under `bias` [G, rows, keys]: out and LSE."""
    if bias is not None:
        bias = bias.to(torch.promote_types(q.dtype, torch.float32))
    # PyTorch's CPU attention adds the bias, and what is not finite stays so whatever is added.
    fused = q.device.type == "cpu" and (bias is None or bool(k.isfinite().all()))
    out, lse = (_attend_on_cpu if fused else _attend_anywhere)(q, k, v, bias, scale)
    if bias is not None:
        # PyTorch's CPU attention reports 0 where every key is masked.
        lse = lse.masked_fill(bias.isneginf().all(dim=-1), -torch.inf)
    return out, lse


def _attend_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    mask = None if bias is None else bias[None]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[None], k[None], v[None], attn_mask=mask, scale=scale
    )
    return out[0], lse[0]


def _attend_anywhere(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    scores = (q @ k.transpose(1, 2)).to(torch.promote_types(q.dtype, torch.float32)) * scale
    scores = scores if bias is None else (scores + bias).masked_fill(bias.isneginf(), -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.nan_to_num(neginf=0.0)[..., None]).exp()
    return weights.to(q.dtype) @ v, lse


def _join(out: Tensor, lse: Tensor, more_out: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over two disjoint sets of keys from the attentions over each."""
    total = torch.logaddexp(lse, more_lse)
    finite = total.nan_to_num(neginf=0.0)
    share, more_share = (lse - finite).exp()[..., None], (more_lse - finite).exp()[..., None]
    return out * share + more_out * more_share, total


def _tokens(rows: Tensor, q: Tensor) -> Tensor:
    """[R, rows, ...] -> [B, H, M, ...]."""
    return rows.view(*q.shape[:2], -1, *rows.shape[2:])[:, :, : q.shape[2]]
