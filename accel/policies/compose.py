"""Composed: a method put together in a recipe: an order, a score, a selector, what is always kept, a tail."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.blocks import causal_blocks, causal_blocks_in
from accel.kernels.layout.boxes import Boxes
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.visibility import block_bounds
from accel.noun import noun
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.decode.stages import AnyDecode
from accel.policies.parts.always import Always
from accel.policies.parts.flex_prefill import FlexPrefill
from accel.policies.parts.grid_blocks import require_grid, visibility_of
from accel.policies.parts.head_choice import row_of
from accel.policies.parts.ordering.axes_by_head import AxesByHead, always_by_head, order_by_head
from accel.policies.parts.ordering.content_orders import Clusters, ContentOrder, Hashed, content_order
from accel.policies.parts.ordering.modalities import Modalities, PromptOrder, Strides, own_and_first
from accel.policies.parts.ordering.orders import (
    Axes,
    Cycle,
    Hilbert,
    Residues,
    RowMajor,
    Tile,
    Windows,
    token_order,
)
from accel.policies.parts.scores import Score
from accel.policies.parts.selectors import Selector, keep_of_share
from accel.policies.parts.vertical_slash import VerticalSlash
from accel.policies.policy import BlockSize, Policy

AnyOrder = Annotated[
    RowMajor
    | Tile
    | Hilbert
    | Axes
    | Residues
    | Cycle
    | Windows
    | AxesByHead
    | Clusters
    | Hashed
    | Modalities
    | Strides,
    Field(discriminator="kind"),
]
Choice = Annotated[VerticalSlash | FlexPrefill, Field(discriminator="kind")]


@noun
class Composed(Policy):
    """Most published block-sparse methods are one choice in each of these; the recipes name them.

    A sequence without a grid is taken for causal, as language models' are.

    Args:
        order: what blocks are cut from; other than row-major needs a grid. One that follows from the content
            is another for queries than for keys: no block is the diagonal, text alone is always kept.
            `modalities` and `strides` are for prompts of vision tokens and text; where it is not known which
            are which, or tokens follow a cache, blocks are cut from the sequence.
        score, select: how blocks are ranked and how many are kept; both or neither. With neither, and no
            choice, the method is static: what is always kept is all.
        choose: in place of the two, for sequences without a grid: a rule that does not rank blocks.
        always: what is kept in addition to text and the diagonal.
        tail: whether blocks that are not kept enter the softmax as their mean.
        turns: noise on the scores, new in every layer and step, so that middling blocks take turns: the
            standard deviation of the logarithms it adds (PASA, arXiv 2604.12219). The same choice in every
            step makes what is left out flicker at its borders.
        block_size: (query rows, key rows).
        decode: how single queries after a cache find their keys; None ranks blocks as for any others.
    """

    method: Literal["compose"] = "compose"
    order: AnyOrder = field(default_factory=RowMajor)
    score: Score | None = None
    select: Selector | None = None
    choose: Choice | None = None
    always: Always = field(default_factory=Always)
    tail: bool = False
    block_size: BlockSize = (128, 128)
    decode: AnyDecode | None = None
    turns: Annotated[float, Field(ge=0, le=10)] = 0.0

    def __post_init__(self) -> None:
        if (self.score is None) != (self.select is None):
            raise ValueError(f"score and select belong together, got {self.score} and {self.select}")
        if self.choose is not None and self.score is not None:
            raise ValueError(f"choose replaces score and select, got {self.choose} and {self.score}")
        if isinstance(self.order, ContentOrder) and self.always != Always():
            raise ValueError(f"order {self.order.kind!r} follows no grid, got always={self.always}")
        if isinstance(self.order, PromptOrder) and (
            self.choose or self.always != Always(sink=self.always.sink)
        ):
            raise ValueError(
                f"order {self.order.kind!r} takes a score and a sink, got choose={self.choose} and "
                f"always={self.always}"
            )
        window = self.always.window
        if (
            window is not None
            and window.exact
            and (not self.static or self.tail or self.always != Always(window=window))
        ):
            raise ValueError("an exact window is all that is kept: no score, no tail, nothing else in always")
        for rows, step in zip(self.block_size, self.score.steps if self.score else (1, 1), strict=True):
            if rows % step:
                raise ValueError(f"a block of {rows} rows is not a multiple of {self.score}'s step {step}")

    @property
    def static(self) -> bool:  # type: ignore[override]
        content = isinstance(self.order, ContentOrder | PromptOrder)
        return self.score is None and self.choose is None and not content

    @property
    def spans_heads(self) -> bool:  # type: ignore[override]
        return self.select is not None and self.select.budget == "layer"

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The blocks of this call, each sample's and head's its own unless the method is static.

        Raises:
            ValueError: if the recipe needs a grid and the call has no grid, or one of other tokens.
        """
        if grid is None:
            return self._sequence_layout(q, k, context)
        if self.choose is not None:
            raise ValueError(f"choose {self.choose.kind!r} is for sequences without a grid")
        ranks = self.score is not None and not isinstance(self.order, ContentOrder)
        grid = require_grid(self.method, q.shape[2], k.shape[2], grid, spans=ranks)
        q_order, kv_order, keep = self._cut(q, k, grid, context)
        if self.score is not None and self.select is not None:
            q = q if q_order is None else q_order.permute(q)
            k = k if kv_order is None else kv_order.permute(k)
            may = None
            if visibility := visibility_of(grid):
                orders = q_order, kv_order
                may = block_bounds(visibility, self.block_size, q.device, *orders).seen_by_some
            keep = self._select(q, k, keep, may, context)
        return BlockLayout.from_mask(
            keep,
            self.block_size,
            grid.tokens,
            grid.tokens,
            q_order=q_order,
            kv_order=kv_order,
            tail=self.tail,
            visibility=self._boxes(grid),
        )

    def _boxes(self, grid: TokenGrid) -> Boxes | None:
        window = self.always.window
        # Where the model itself hides tokens, blocks stay whole.
        return window.boxes(grid) if window is not None and window.exact and not grid.runs else None

    def _cut(
        self, q: Tensor, k: Tensor, grid: TokenGrid, context: Context
    ) -> tuple[TokenOrder | None, TokenOrder | None, Tensor]:
        """What blocks of queries and of keys are cut from, and bool [1, H | 1, Mb, Nb], those always kept."""
        order, device = self.order, q.device
        if isinstance(order, PromptOrder):
            raise ValueError(f"order {order.kind!r} is for sequences without a grid")
        if isinstance(order, AxesByHead):
            axes = row_of(order.heads, q.shape[1], context)
            by_head = order_by_head(axes, grid, device)
            return by_head, by_head, always_by_head(self.always, axes, grid, self.block_size, device)[None]
        if isinstance(order, Cycle):
            order = order.of_layer(context.layer)
        now = order.at_turn(step_of(context) + context.layer) if isinstance(order, Windows) else order
        keep = self.always.blocks(grid, now, self.block_size, device)[None, None]
        if isinstance(now, ContentOrder):
            return content_order(now, q, grid), content_order(now, k, grid), keep
        shared = token_order(now, grid, device)
        return shared, shared, keep

    def _sequence_layout(self, q: Tensor, k: Tensor, context: Context) -> BlockLayout:
        if isinstance(self.order, PromptOrder) and context.vision is not None and q.shape[2] == k.shape[2]:
            return self._prompt_layout(q, k, self.order.orders(q, k, context.vision), context)
        if not isinstance(self.order, RowMajor | PromptOrder):
            raise ValueError(f"order {self.order.kind!r} needs a token grid; this call has none")
        q_len, kv_len = q.shape[2], k.shape[2]
        may = causal_blocks(self.block_size, q_len, kv_len, q.device)[None, None]
        must = self.always.sequence_blocks(q_len, kv_len, self.block_size, q.device)[None, None]
        if self.choose is not None:
            must = must | self.choose.blocks(q, k, self.block_size)
        keep = (
            must & may
            if self.score is None
            else self._select(q, k, must, may, of_layer(context), causal=True)
        )
        return BlockLayout.from_mask(keep, self.block_size, q_len, kv_len, causal=True, tail=self.tail)

    def _prompt_layout(
        self, q: Tensor, k: Tensor, orders: tuple[TokenOrder, TokenOrder | None], context: Context
    ) -> BlockLayout:
        q_order, kv_order = orders
        tokens, device = q.shape[2], q.device
        may = causal_blocks_in(orders, tokens, self.block_size, device)
        keep = own_and_first(orders, tokens, self.block_size, self.always.sink, device) & may
        if self.score is not None:
            q, k = q_order.permute(q), k if kv_order is None else kv_order.permute(k)
            keep = self._select(q, k, keep, may, of_layer(context))
        return BlockLayout.from_mask(
            keep,
            self.block_size,
            tokens,
            tokens,
            causal=True,
            q_order=q_order,
            kv_order=kv_order,
            tail=self.tail,
        )

    def _select(
        self, q: Tensor, k: Tensor, must: Tensor, may: Tensor | None, context: Context, causal: bool = False
    ) -> Tensor:
        assert self.score is not None and self.select is not None
        # What nobody sees must not take the mass of what somebody does; an order by head is left to `may`.
        counts = may[0, 0] if may is not None and not causal and may.shape[:2] == (1, 1) else None
        if counts is not None:
            # Rows that see nothing have no mass to share out.
            counts = counts | ~counts.any(dim=-1, keepdim=True)
        mass = self.score.mass(q, k, self.block_size, causal, counts, context.kv_lengths)
        if self.turns:
            mass = mass * (self.turns * noise_like(mass, context)).exp()
        untrusted = self.score.must_keep(q, k, self.block_size)
        must = must if untrusted is None else must | untrusted
        select = self.select.at_layer(context.layer, context.n_layers)
        return keep_of_share(select, mass, must, may, context.heads)


def noise_like(mass: Tensor, context: Context) -> Tensor:
    """Standard normal numbers that depend on the layer and the step alone, so that a run can be repeated."""
    generator = torch.Generator(mass.device).manual_seed(step_of(context) * context.n_layers + context.layer)
    return torch.randn(mass.shape, generator=generator, device=mass.device, dtype=mass.dtype)


def step_of(context: Context) -> int:
    """The denoising step, or where nobody counts, how many there were before."""
    return context.turn if context.step is None else context.step


def of_layer(context: Context) -> Context:
    """What a sequence's blocks may depend on: the layer alone."""
    return Context(layer=context.layer, n_layers=context.n_layers)
