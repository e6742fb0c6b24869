"""Arithmetic on blocks of tokens: which block a token lies in, which blocks causality leaves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.layout.order import TokenOrder


def blocks_of_tokens(order: TokenOrder | None, length: int, rows: int, device: torch.device) -> Tensor:
    """Int64 [B | 1, H | 1, N]: the block of `rows` tokens that each token of the sequence lies in."""
    places = torch.arange(length, device=device) if order is None else order.inverse.indices
    return (places if places.ndim == 3 else places.expand(1, 1, length)) // rows


def positions_by_block(
    order: TokenOrder | None, length: int, rows: int, device: torch.device, pad: int
) -> Tensor:
    """Int64 [B | 1, H | 1, blocks, rows]: where in the sequence the tokens of each block are.

    The places behind the last token of the last block hold `pad`.
    """
    positions = torch.arange(length, device=device) if order is None else order.indices
    positions = positions if positions.ndim == 3 else positions.expand(1, 1, length)
    return F.pad(positions, (0, -length % rows), value=pad).unflatten(-1, (-1, rows))


def causal_blocks(
    block_size: tuple[int, int],
    q_len: int,
    kv_len: int,
    device: torch.device | None = None,
) -> Tensor:
    """Bool [Mb, Nb]: the blocks in which some query sees some key, in the order of the sequence."""
    rows, columns = block_size
    last_query = (torch.arange(0, q_len, rows, device=device) + rows).clamp(max=q_len) - 1
    first_key = torch.arange(0, kv_len, columns, device=device)
    return first_key <= (last_query + kv_len - q_len)[:, None]


def causal_blocks_in(
    orders: tuple[TokenOrder | None, TokenOrder | None],
    tokens: int,
    block_size: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Bool [B | 1, H | 1, Mb, Nb]: the same for blocks cut from orders of as many queries as keys.

    Args:
        orders: of the queries and of the keys; heads of either divide those of the other.
    """
    first_key = positions_by_block(orders[1], tokens, block_size[1], device, tokens).amin(dim=-1)
    last_query = positions_by_block(orders[0], tokens, block_size[0], device, 0).amax(dim=-1)
    heads = max(first_key.shape[1], last_query.shape[1])
    first_key, last_query = per_head(first_key, heads), per_head(last_query, heads)
    return first_key[:, :, None] <= last_query[..., None]


def per_head(tensor: Tensor, heads: int) -> Tensor:
    """[B, H', ...] -> [B, heads, ...]: each of the H' heads serves heads / H' query heads in a row (GQA)."""
    if tensor.shape[1] == heads:
        return tensor
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)
