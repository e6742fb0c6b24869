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

Reduction = Literal["any", "strict"]


@noun
class Radial(Policy):
    """One mask for all steps, from the grid alone: O(n log n) in frames, quadratic in resolution.

    Args:
        decay: scales the window of frames two or more apart, in (0, 1]. Windows never get narrower than a
            block, so small values may all mean the same; that is warned about. `per_head` takes several.
        rule: the window's shape: as published for "wan" (every query sees frame 0) or "hunyuan" (it does
            not), or the "paper"'s equation 4, which is narrower and has no decay.
        reduction: "any" keeps each block with at least one pair inside the window; "strict" repeats the
            published code's shrinking reduction and refuses the shapes on which that code fails.
        block_size: (query rows, key rows).
    """

    static: ClassVar[bool] = True
    method: Literal["radial"] = "radial"
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
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
        """The mask of this grid, shared by all samples and heads; see `Policy.layout`.

        Raises:
            ValueError: without the grid of these tokens.
        """
        return _layout(self, require_grid(self.method, q.shape[2], k.shape[2], grid), q.device)

    def mask(self, grid: TokenGrid, decay: float) -> Tensor:
        """Bool [Mb, Nb], on the CPU, of heads of one decay."""
        sink = HAS_SINK[self.rule]
        widths = half_widths(grid.frames, grid.frame_tokens, decay, self.rule, max(self.block_size))
        if self.reduction == "any":
            return keep_any(grid, widths, sink, self.block_size)
        return keep_strict(grid, widths, sink, self.block_size[0])


@from_sizes(128)
def _layout(policy: Radial, grid: TokenGrid, device: torch.device) -> BlockLayout:
    decay = policy.decay
    keep = policy.mask(grid, decay)
    if policy.rule != "paper" and torch.equal(keep, policy.mask(grid, decay / 2)):
        warnings.warn(
            f"radial: decay {decay:g} keeps the same blocks as {decay / 2:g} on {grid} with blocks of "
            f"{policy.block_size}: it is saturated, a smaller one cannot make the mask sparser",
            stacklevel=2,
        )
    return BlockLayout.from_mask(keep[None, None].to(device), policy.block_size, grid.tokens, grid.tokens)
