"""Padding of text: hidden tokens come last in a call, and no method sees what they hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from accel.patches.context import Context

# The masks whose hidden tokens are moved to the end of a call.
MOVED = ("anywhere", "behind")


def picked(tokens: Tensor, order: Tensor | None) -> Tensor:
    """[B, N, H, D] with token `order[i]` at i; an order [B, N] has one for each sample, None leaves them."""
    if order is None:
        return tokens
    return tokens.index_select(1, order) if order.ndim == 1 else tokens.gather(1, of_tokens(order, tokens))


def put_back(tokens: Tensor, order: Tensor | None) -> Tensor:
    """The inverse of `picked`."""
    if order is None:
        return tokens
    back = torch.empty_like(tokens)
    if order.ndim == 1:
        return back.index_copy_(1, order, tokens)
    return back.scatter_(1, of_tokens(order, tokens), tokens)


def of_tokens(order: Tensor, tokens: Tensor) -> Tensor:
    """An order [B, N] as an index of the same shape as tokens [B, N, H, D]."""
    return order[:, :, None, None].expand_as(tokens)


def hidden_last(context: Context, mask: Tensor, batch: int) -> tuple[Context, Tensor, Tensor]:
    """A call whose hidden text tokens come last: its context, its order [B, N], and its mask.

    Args:
        mask: bool [B | 1, 1, 1, N], which hides padded text only. No host sync.
    """
    grid = context.grid
    assert grid is not None
    seen = mask[:, 0, 0].expand(batch, -1)
    tokens = torch.arange(grid.tokens, device=mask.device)
    if context.text_padding == "behind":
        order = video_first(seen.sum(dim=1, keepdim=True), grid.video_tokens, tokens)
    else:
        text_start = grid.lead_tokens + (0 if grid.text_first else grid.video_tokens)
        text_end = text_start + grid.text_tokens
        text = text_start + (~seen[:, text_start:text_end]).to(torch.uint8).argsort(dim=1, stable=True)
        others = torch.cat([tokens[:text_start], tokens[text_end:]]).expand(batch, -1)
        order = torch.cat([others, text], dim=1)
    after = grid.text_tokens + grid.tail_tokens
    placed = replace(context, grid=replace(grid, text_first=False, text_tokens=after, tail_tokens=0))
    return placed, order, seen.gather(1, order)[:, None, None]


def video_first(seen: Tensor, video_tokens: int, tokens: Tensor) -> Tensor:
    """The order [B, N] of sequences of text, video and padding that puts the text between the other two.

    Args:
        seen: [B, 1], tokens of a sample that are not padding.
        tokens: their numbers, [N].
    """
    text = torch.where(tokens < seen, tokens - video_tokens, tokens)
    return torch.where(tokens < video_tokens, seen - video_tokens + tokens, text)


def is_known(mask: Any, tokens: int, context: Context) -> bool:
    """Whether a mask hides what the context says and nothing else: padded text, or what its runs do."""
    grid = context.grid
    if grid is not None and grid.runs:
        if mask is None:
            return not grid.hides
        if not isinstance(mask, Tensor):
            # Here, so that `import accel` does not load it.
            from accel.patches.diffusers.block_mask import shows

            return shows(mask, grid)
        return mask.dtype == torch.bool and tuple(mask.shape[1:]) == (1, tokens, tokens)
    return mask is None or (hides_padding_only(mask, context) and mask.shape[3] == tokens)


def hides_padding_only(mask: Any, context: Context) -> bool:
    """Whether a mask is known to hide padded text and nothing else."""
    if not isinstance(mask, Tensor):
        return False
    key_mask = mask.dtype == torch.bool and mask.ndim == 4 and mask.shape[1] == mask.shape[2] == 1
    return key_mask and context.text_padding in ("last", *MOVED)


def valid_keys(mask: Tensor, batch: int) -> Tensor:
    """int32 [B] from a bool key mask [B | 1, 1, 1, N]: how many keys each sample has. No host sync."""
    return mask.sum(dim=(1, 2, 3), dtype=torch.int32).expand(batch)


def without_padding(tokens: Tensor, lengths: Tensor) -> Tensor:
    """[B, H, N, D] with every token from `lengths` on replaced by the sample's last one before.

    So no method can see what padding holds. How many tokens are padding stays known by `lengths`, int32 [B];
    a sample of length 0 repeats its first token.
    """
    last = (
        (lengths.long() - 1)
        .clamp(min=0)[:, None, None, None]
        .expand(-1, *tokens.shape[1:2], 1, tokens.shape[3])
    )
    return torch.where(real_tokens(tokens, lengths), tokens, tokens.gather(2, last))


def real_tokens(tokens: Tensor, lengths: Tensor, step: int = 1) -> Tensor:
    """Bool [B, 1, n, 1]: which of every `step`-th token [B, H, n, D] are not padding, by int32 [B]."""
    places = torch.arange(tokens.shape[2], device=tokens.device) * step
    return (places < lengths[:, None])[:, None, :, None]
