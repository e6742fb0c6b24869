"""Radial: static attention whose window inside a frame halves as frames grow apart (arXiv 2506.19852)."""

from __future__ import annotations

import warnings
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.layout import BlockLayout
from accel.noun import noun
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import require_grid
from accel.policies.policy import BlockSize, Policy
from accel.policies.radial_mask import HAS_SINK, Rule, half_widths, keep_any
from accel.policies.radial_parity import keep_strict

Decay = Annotated[float, Field(gt=0, le=1)]
Reduction = Literal["any", "strict"]


@noun
class Radial(Policy):
    """One mask for all steps, from the grid alone: O(n log n) in frames, quadratic in resolution.

    Args:
        decay: scales the window of frames two or more apart, in (0, 1]: one number, one per layer, or one
            list of heads per layer. Windows never get narrower than a block, so small values may all mean
            the same; that is warned about.
        rule: the window's shape: as published for "wan" (every query sees frame 0) or "hunyuan" (it does
            not), or the "paper"'s equation 4, which is narrower and has no decay.
        reduction: "any" keeps each block with at least one pair inside the window; "strict" repeats the
            published code's shrinking reduction and refuses the shapes on which that code fails.
        block_size: (query rows, key rows).
    """

    static: ClassVar[bool] = True
    method: Literal["radial"] = "radial"
    decay: Decay | tuple[Decay, ...] | tuple[tuple[Decay, ...], ...] = 1.0
    rule: Rule = "wan"
    reduction: Reduction = "any"
    block_size: BlockSize = (128, 128)

    def __post_init__(self) -> None:
        if self.reduction == "strict" and self.block_size[0] != self.block_size[1]:
            raise ValueError(
                f"reduction 'strict' is defined for square blocks only, got block_size {self.block_size}"
            )
        if self.rule == "paper" and self.reduction == "strict":
            raise ValueError(
                "reduction 'strict' belongs to the published code: use rule 'wan' or 'hunyuan', got 'paper'"
            )
        if self.rule == "paper" and self.decay != 1:
            raise ValueError(f"rule 'paper' has no decay: leave it at 1, got {self.decay}")

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The mask of this grid and layer, shared by all samples; see `Policy.layout`.

        Raises:
            ValueError: without the grid of these tokens, or if a table of decays does not fit the model.
        """
        grid = require_grid(self.method, q.shape[2], k.shape[2], grid)
        return _layout(self, grid, self._head_decays(context, q.shape[1]), q.device)

    def mask(self, grid: TokenGrid, decay: float) -> Tensor:
        """Bool [Mb, Nb], on the CPU, of heads of one decay."""
        sink = HAS_SINK[self.rule]
        widths = half_widths(grid.frames, grid.frame_tokens, decay, self.rule, max(self.block_size))
        if self.reduction == "any":
            return keep_any(grid, widths, sink, self.block_size)
        return keep_strict(grid, widths, sink, self.block_size[0])

    def _head_decays(self, context: Context, heads: int) -> tuple[float, ...]:
        if isinstance(self.decay, float):
            return (self.decay,)
        if len(self.decay) != context.n_layers:
            raise ValueError(f"decay lists {len(self.decay)} layers, the model has {context.n_layers}")
        of_layer = self.decay[context.layer]
        if isinstance(of_layer, float):
            return (of_layer,)
        share = context.heads
        total = heads if share is None else share.total
        if len(of_layer) != total:
            raise ValueError(
                f"decay lists {len(of_layer)} heads for layer {context.layer}, the call has {total}"
            )
        return of_layer if share is None else of_layer[share.own]


@from_sizes(128)
def _layout(policy: Radial, grid: TokenGrid, decays: tuple[float, ...], device: torch.device) -> BlockLayout:
    keep = torch.stack([_keep(policy, grid, decay) for decay in decays])
    return BlockLayout.from_mask(keep.unsqueeze(0).to(device), policy.block_size, grid.tokens, grid.tokens)


@from_sizes(128)
def _keep(policy: Radial, grid: TokenGrid, decay: float) -> Tensor:
    keep = policy.mask(grid, decay)
    if policy.rule != "paper" and torch.equal(keep, policy.mask(grid, decay / 2)):
        warnings.warn(
            f"radial: decay {decay:g} keeps the same blocks as {decay / 2:g} on {grid} with blocks of "
            f"{policy.block_size}: it is saturated, a smaller one cannot make the mask sparser",
            stacklevel=2,
        )
    return keep
