"""Orders of a prompt with images: vision tokens, then text, each as in the sequence (arXiv 2504.16083)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.blocks import blocks_of_tokens, per_head
from accel.kernels.layout.order import TokenOrder
from accel.noun import noun
from accel.policies.parts.lines import attention_of, by_key_heads

Orders = tuple[TokenOrder, TokenOrder | None]


@noun
class Modalities:
    """All vision tokens, then all text: only one block holds both.

    Args:
        keys: whether keys are in that order too (a boundary in two dimensions), or queries alone.
    """

    keys: bool = True
    kind: Literal["modalities"] = "modalities"

    def orders(self, q: Tensor, k: Tensor, vision: Tensor) -> Orders:
        """Of the queries and of the keys, [B, 1, N]; `vision` is bool [B, N]."""
        order = TokenOrder(vision_first(vision))
        return order, order if self.keys else None


@noun
class Strides:
    """Vision tokens at the same place of every stride one after another, in the stride of each key head.

    A head that looks at the same row, column or place of every frame sees keys at a constant distance. Its
    stride is the distance at which the attention of the last vision tokens repeats itself most, past the
    first at which it no longer does; a head that repeats nothing keeps the order of the tokens. Places begin
    with the one that is looked at most. Vision tokens are counted without the text between them.

    Args:
        longest: tokens of the longest stride: at least those of a frame.
        probes: the last vision tokens, whose attention shows it.
    """

    longest: Annotated[int, Field(ge=2)] = 2048
    probes: Annotated[int, Field(ge=1)] = 64
    kind: Literal["strides"] = "strides"

    def orders(self, q: Tensor, k: Tensor, vision: Tensor) -> Orders:
        """Of the queries, [B, H, N], and of the keys, [B, Hkv, N]; `vision` is bool [B, N]. No host sync."""
        first, count = vision_first(vision), vision.sum(dim=-1)[:, None, None]
        last = (count - self.probes + torch.arange(self.probes, device=q.device)).clamp(min=0)
        rows = first.gather(2, last)
        asking = q.gather(2, rows[..., None].expand(-1, q.shape[1], -1, q.shape[3]))
        parts = []
        for some_q, some_k in by_key_heads(asking, k, asking.shape[2]):
            seen = attention_of(some_q, some_k, rows).unflatten(1, (some_k.shape[1], -1)).mean(dim=2)
            seen = seen.gather(3, first[:, :, None].expand_as(seen))  # [B, Hkv, P, N], vision first
            stride, phase = stride_and_phase(seen, count, self.longest)
            parts.append(self._arranged(first, count, stride, phase))
        order = torch.cat(parts, dim=1)
        return TokenOrder(per_head(order, q.shape[1])), TokenOrder(order)

    @staticmethod
    def _arranged(first: Tensor, count: Tensor, stride: Tensor, phase: Tensor) -> Tensor:
        rank = torch.arange(first.shape[2], device=first.device)
        place = torch.where(rank < count, (rank - phase) % stride, first.shape[2])
        return first.expand(-1, place.shape[1], -1).gather(2, place.argsort(dim=-1, stable=True))


PromptOrder = Modalities | Strides


def vision_first(vision: Tensor) -> Tensor:
    """Int64 [B, 1, N]: the vision tokens' positions, then those of text; `vision` is bool [B, N]."""
    return (~vision).to(torch.uint8).argsort(dim=-1, stable=True)[:, None]


def stride_and_phase(seen: Tensor, count: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Int64 [B, H, 1] each: the distance at which rows repeat themselves most, and the heaviest place of it.

    The first distance is passed over with all that follow it without a break in which rows are alike, as
    neighbours are in any smooth row. A head without another has the stride 1.

    Args:
        seen: float32 [B, H, P, N], rows of attention, of which the first `count` numbers matter.
        count: int64 [B, 1, 1].
        longest: the longest stride that is looked for.
    """
    rank = torch.arange(seen.shape[3], device=seen.device)
    valid = rank < count
    seen = seen * valid[:, :, None]
    centred = (seen - seen.sum(dim=-1, keepdim=True) / count[..., None].clamp(min=1)) * valid[:, :, None]
    spectrum = torch.fft.rfft(centred, n=2 * seen.shape[3]).abs().square().mean(dim=2)
    alike = torch.fft.irfft(spectrum, n=2 * seen.shape[3])[..., : min(longest + 1, seen.shape[3])]
    distance = rank[: alike.shape[-1]]
    unlike_before = (alike <= 0).cumsum(dim=-1) > 0
    alike = torch.where(unlike_before & (2 * distance <= count), alike, 0)
    most = alike.amax(dim=-1, keepdim=True)
    stride = torch.where(most > 0, alike.argmax(dim=-1, keepdim=True), 1)
    places = torch.zeros_like(seen[:, :, 0]).scatter_add_(2, rank % stride, seen.sum(dim=2))
    return stride, places.argmax(dim=-1, keepdim=True)


def own_and_first(
    orders: tuple[TokenOrder | None, TokenOrder | None],
    tokens: int,
    block_size: tuple[int, int],
    sink: int,
    device: torch.device,
) -> Tensor:
    """Bool [B | 1, H | 1, Mb, Nb]: the block of each token's own key, and those of the first `sink` keys."""
    rows, columns = (
        blocks_of_tokens(order, tokens, size, device) for order, size in zip(orders, block_size, strict=True)
    )
    heads = max(rows.shape[1], columns.shape[1])
    rows, columns = per_head(rows, heads), per_head(columns, heads)
    rows, columns = torch.broadcast_tensors(rows, columns)
    counts = [-(-tokens // size) for size in block_size]
    keep = torch.zeros(*rows.shape[:2], counts[0] * counts[1], dtype=torch.bool, device=device)
    keep = keep.scatter(2, rows * counts[1] + columns, True).unflatten(2, counts)
    first = torch.zeros(*rows.shape[:2], counts[1], dtype=torch.bool, device=device)
    return keep | first.scatter(2, columns[..., :sink], True)[:, :, None]
