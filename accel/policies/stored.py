"""Stored: masks that were found beforehand, by part of the schedule, layer and head (PAROAttention)."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar, Literal

from torch import Tensor

from accel.kernels.layout.layout import BlockLayout
from accel.noun import noun
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import require_grid
from accel.policies.parts.mask_file import MaskFile, axes_of, load_masks
from accel.policies.parts.ordering.axes_by_head import order_by_head
from accel.policies.parts.schedule_parts import part_at
from accel.policies.policy import Policy


@noun
class Stored(Policy):
    """The masks of a file, which is of one model at one size (arXiv 2506.16054).

    `accel.tuning.masks.learn_masks` finds them from a prompt or two.

    Args:
        file: a .safetensors file; a relative path begins at the working directory.

    Raises:
        ValueError: if the file cannot be read, is not one of masks, or was damaged.
    """

    static: ClassVar[bool] = True
    file: str
    method: Literal["stored"] = "stored"

    def __post_init__(self) -> None:
        load_masks(self.file)

    @cached_property
    def masks(self) -> MaskFile:
        """Those that the file held when they were first asked for."""
        return load_masks(self.file)

    def __getstate__(self) -> dict[str, str]:
        return {"file": self.file, "method": self.method}

    @property
    def only_grid(self) -> TokenGrid:  # type: ignore[override]
        return self.masks.grid

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The stored blocks of this layer's heads.

        Raises:
            ValueError: if the masks are of another grid, or of a model with other layers or heads.
        """
        masks = self.masks
        grid = require_grid(self.method, q.shape[2], k.shape[2], grid, spans=True)
        if grid != masks.grid:
            raise ValueError(f"{self.file} has masks of a grid of {masks.grid} tokens, this call has {grid}")
        layers, heads = masks.orders.shape
        if layers != context.n_layers:
            raise ValueError(f"{self.file} has masks of {layers} layers, this model has {context.n_layers}")
        own = slice(None) if context.heads is None else context.heads.own
        keep = masks.keep(part_at(masks.until, context.progress), context.layer, q.device)[own]
        if keep.shape[0] != q.shape[1]:
            raise ValueError(f"{self.file} has masks of {heads} heads, this call has {q.shape[1]}")
        order = order_by_head(axes_of(masks.orders[context.layer, own]), grid, q.device)
        return BlockLayout.from_mask(
            keep[None], masks.block_size, grid.tokens, grid.tokens, q_order=order, kv_order=order
        )
