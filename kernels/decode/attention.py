"""decode_attention: a few queries against a long cache, over the key blocks that a layout lists.

What block-sparse attention over blocks of queries does badly: a block of one query wastes its tile, and a
list walked by one program leaves the machine idle. Here the queries of all heads that share a key head are
the rows of one tile (no key is read twice, or expanded), and on a GPU a list is split over many programs. No
tier waits for the device.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from accel.kernels.attention.tier import Tier
from accel.kernels.attention.tiers import cannot_run
from accel.kernels.layout.blocks import per_head
from accel.kernels.layout.layout import BlockLayout

# The first that can run a call runs it.
DECODE_TIERS = {
    "triton": Tier("accel.kernels.decode.triton", partial(cannot_run, "triton"), function="attend"),
    # PyTorch reads nothing on the host here, so that it runs on the meta device too.
    "torch": Tier(
        "accel.kernels.decode.attention",
        lambda _, dtype, head_dim: cannot_run("torch", "cpu", dtype, head_dim),
        function="attend",
    ),
}


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    visible: Tensor | None = None,
    *,
    scale: float | None = None,
    tier: str | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ · scale) v over the keys that are listed and visible. Forward only.

    Args:
        q: [B, H, M, D], M small; k, v: [B, Hkv, N, D], H a multiple of Hkv.
        layout: one block of queries, so a single list; lists are for key heads, [B | 1, Hkv | 1, 1, S].
        visible: bool [B | 1, M, N], the keys each query may see; None leaves that to the layout. Such rows
            are what the model has made anyway, and they say what no rule does without a length on the host:
            padding on either side, and the unwritten end of a static cache.
        scale: 1 / sqrt(D) if None.
        tier: a key of `DECODE_TIERS`; None takes Triton where it can run.

    Returns:
        out [B, H, M, D] in q's type, and the natural logarithm of each row's sum of exponentials, float32
        [B, H, M]. A query that sees nothing gets 0 and -inf.

    Raises:
        ValueError: if shapes contradict each other, the layout has an order, a tail or lengths, or the tier
            cannot run the call.
    """
    _check(q, k, layout, visible)
    against = {name: each.cannot_run(q.device, q.dtype, q.shape[3]) for name, each in DECODE_TIERS.items()}
    name = tier or next((name for name, reason in against.items() if reason is None), "torch")
    if against[name] is not None:
        raise ValueError(f"the {name} tier cannot run this call: it {against[name]}")
    scale = q.shape[3] ** -0.5 if scale is None else scale
    with torch.cuda.device_of(q):
        out, lse = DECODE_TIERS[name].load()(grouped(q, k.shape[1]), k, v, layout, visible, scale)
    return out.reshape(q.shape), lse.reshape(q.shape[:3])


def grouped(q: Tensor, kv_heads: int) -> Tensor:
    """[B, H, M, D] -> [B, Hkv, H / Hkv · M, D]: the rows that read the same keys; row r is query r mod M."""
    batch, heads, q_len, dim = q.shape
    return q.reshape(batch, kv_heads, heads // kv_heads * q_len, dim)


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, visible: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The torch tier: gathers as many keys as the lists have room for, and masks what is not there.

    Args:
        q: [B, Hkv, R, D], as `grouped`.

    Returns:
        out [B, Hkv, R, D] and the LSE float32 [B, Hkv, R].
    """
    batch, kv_heads, rows, _ = q.shape
    keys, listed = _keys(layout)
    keys = per_head(keys, kv_heads).expand(batch, -1, -1)
    sample = torch.arange(batch, device=q.device)[:, None, None]
    head = torch.arange(kv_heads, device=q.device)[:, None]
    seen = listed[:, :, None]  # [B | 1, Hkv | 1, M | 1, S · columns]
    if layout.causal:
        last_key = torch.arange(layout.q_len, device=q.device) + layout.kv_len - layout.q_len
        seen = seen & (keys[:, :, None] <= last_key[:, None])
    if visible is not None:
        query = torch.arange(layout.q_len, device=q.device)[:, None]
        seen = seen & visible.expand(batch, -1, -1)[sample[..., None], query, keys[:, :, None]]
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k[sample, head, keys].transpose(-1, -2)).to(wide) * scale
    hidden = ~seen.repeat(1, 1, rows // seen.shape[2], 1)
    scores = scores.masked_fill(hidden, -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse.nan_to_num(neginf=0.0)[..., None]).exp().to(q.dtype)
    return weights @ v[sample, head, keys], lse.float()


def _keys(layout: BlockLayout) -> tuple[Tensor, Tensor]:
    """The positions of all listed keys, int64 [B | 1, Hkv | 1, S · columns], and which of them are real."""
    columns = layout.block_size[1]
    slots = torch.arange(layout.kv_indices.shape[3], device=layout.device)
    listed = slots < layout.kv_num_blocks[:, :, 0, None]
    blocks = torch.where(listed, layout.kv_indices[:, :, 0], 0).long()
    keys = (blocks[..., None] * columns + torch.arange(columns, device=layout.device)).flatten(-2)
    real = listed.repeat_interleave(columns, dim=-1) & (keys < layout.kv_len)
    return keys.clamp(max=layout.kv_len - 1), real


def _check(q: Tensor, k: Tensor, layout: BlockLayout, visible: Tensor | None) -> None:
    batch, heads, q_len, _ = q.shape
    kv_heads, kv_len = k.shape[1:3]
    if (q_len, kv_len) != (layout.q_len, layout.kv_len) or layout.num_q_blocks != 1:
        raise ValueError(
            f"the layout is for {layout.q_len} queries and {layout.kv_len} keys in {layout.num_q_blocks} "
            f"blocks of queries, got {q_len} and {kv_len}; decoding takes one block"
        )
    if heads % kv_heads:
        raise ValueError(f"query heads must be a multiple of key heads, got {heads} and {kv_heads}")
    if layout.kv_indices.shape[0] not in (1, batch) or layout.kv_indices.shape[1] not in (1, kv_heads):
        raise ValueError(
            f"lists for {tuple(layout.kv_indices.shape[:2])} samples and key heads do not fit k "
            f"{tuple(k.shape)}"
        )
    if layout.q_order or layout.kv_order or layout.tail or layout.kv_lengths is not None:
        raise ValueError("decoding takes no orders, tails or lengths; pass what may be seen as `visible`")
    if visible is not None and (
        visible.dtype != torch.bool
        or visible.shape[0] not in (1, batch)
        or visible.shape[1:] != (q_len, kv_len)
    ):
        raise ValueError(
            f"visible must be bool [{batch} | 1, {q_len}, {kv_len}], "
            f"got {visible.dtype} {tuple(visible.shape)}"
        )
