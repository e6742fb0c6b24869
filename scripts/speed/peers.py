"""Other projects' block-sparse attention on our layouts, to compare with ours.

A peer that cannot take part says why and is listed as skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from accel.kernels.layout.layout import BlockLayout

Call = Callable[[], Tensor]
WORKSPACE_BYTES = 512 << 20


class Skipped(Exception):
    """Why a peer takes no part."""


def dense_flash_attention_2(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Call:
    """Dense: the baseline on GPUs that cuDNN does not support."""

    def call() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=layout.causal, enable_gqa=True)

    return call


def flex(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Call:
    mask = flex_mask(layout)
    return partial(torch.compile(flex_attention), q, k, v, block_mask=mask, enable_gqa=True)


def flex_mask(layout: BlockLayout) -> BlockMask:
    """The layout as FlexAttention's mask, without padding or order; listed blocks are full unless causal."""
    rows, columns = layout.block_size
    listed = layout.listed

    def is_listed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        keep = listed[b, h, query // rows, key // columns]
        return keep & (key <= query + layout.kv_len - layout.q_len) if layout.causal else keep

    nothing = torch.zeros_like(layout.kv_num_blocks), torch.zeros_like(layout.kv_indices)
    lists = layout.kv_num_blocks, layout.kv_indices
    return BlockMask.from_kv_blocks(
        *((*lists, *nothing) if layout.causal else (*nothing, *lists)),
        BLOCK_SIZE=layout.block_size,
        mask_mod=is_listed,
        seq_lengths=(layout.q_len, layout.kv_len),
    )


def flashinfer(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Call:
    """FlashInfer's wrapper for blocks of any size; its plan, made on the host, is not timed."""
    if find_spec("flashinfer") is None:
        raise Skipped("flashinfer is not installed")
    if q.shape[0] != 1 or q.shape[1] != k.shape[1] or layout.causal:
        raise Skipped("one sample, as many key as query heads, and no causality")
    from flashinfer import VariableBlockSparseAttentionWrapper

    wrapper = VariableBlockSparseAttentionWrapper(
        torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=q.device)
    )
    heads, (rows, columns) = q.shape[1], layout.block_size
    sizes = (
        torch.full((heads, blocks), size, dtype=torch.int32, device=q.device)
        for blocks, size in ((layout.num_q_blocks, rows), (layout.num_kv_blocks, columns))
    )
    row_sizes, column_sizes = sizes
    row_sizes[:, -1] -= layout.num_q_blocks * rows - layout.q_len
    column_sizes[:, -1] -= layout.num_kv_blocks * columns - layout.kv_len
    listed = layout.listed[0].expand(heads, -1, -1).contiguous()
    wrapper.plan(
        listed, row_sizes, column_sizes, heads, heads, q.shape[3], q_data_type=q.dtype, kv_data_type=k.dtype
    )
    ours = [x[0].contiguous() for x in (q, k, v)]
    return lambda: wrapper.run(*ours)[None]


def spargeattn(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Call:
    """SpargeAttn's kernel for a given mask: 8-bit products, so its error is of another kind."""
    if find_spec("spas_sage_attn") is None:
        raise Skipped("spas_sage_attn is not installed")
    if layout.block_size != (128, 64) or layout.causal or q.shape[1] != k.shape[1]:
        raise Skipped("blocks of 128 x 64, as many key as query heads, and no causality")
    from spas_sage_attn import block_sparse_sage2_attn_cuda

    mask = layout.listed.expand(*q.shape[:2], -1, -1).to(torch.int8).contiguous()
    return lambda: block_sparse_sage2_attn_cuda(q, k, v, mask_id=mask, tensor_layout="HND")


PEERS: dict[str, Callable[[Tensor, Tensor, Tensor, BlockLayout], Call]] = {
    "dense_flash_attention_2": dense_flash_attention_2,
    "flex_attention": flex,
    "flashinfer": flashinfer,
    "spargeattn": spargeattn,
}
