"""learn_masks, learn_axes: the order of the axes and the blocks that suit each head, found on a prompt.

A generation with dense attention is looked at twice: first each head's order is chosen, then the attention of
every block is added up in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accel.accelerate import accelerated
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.planning.heaviest import keep_heaviest
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.patches.models import supported_models
from accel.policies.parts.always import Always
from accel.policies.parts.grid_blocks import require_grid
from accel.policies.parts.mask_file import AXES, MaskFile, axes_of
from accel.policies.parts.ordering.axes_by_head import AxesByHead, always_by_head, order_by_head
from accel.policies.parts.ordering.orders import AxesName
from accel.policies.parts.schedule_parts import check_ends, part_at
from accel.policies.parts.scores import Exact
from accel.policies.policy import BlockSize, Policy


def learn_masks(
    pipe: Any,
    generate: Callable[[Any], Any],
    path: str | Path,
    *,
    density: float = 0.5,
    until: tuple[float, ...] = (0.5, 1.0),
    block_size: BlockSize = (64, 64),
) -> MaskFile:
    """Find masks for a pipeline at one size, and save them for `policy: {method: stored, file: ...}`.

    The true mass of every block is worked out, at several times the cost of dense attention.

    Args:
        pipe: the pipeline, or the model.
        generate: called with it twice; makes the videos that the masks are found on, all of one size.
        path: where the masks are saved, a .safetensors file.
        density: share of the blocks that each head keeps, in (0, 1].
        until: the shares of the schedule at which its parts end; each part has its own masks.
        block_size: (query rows, key rows).

    Raises:
        ValueError: if the pipeline has more than one model to accelerate, nothing was attended to, or videos
            of different sizes were made.
    """
    check_ends(until)
    orders = _watched(pipe, generate, _Watch(block_size, (1.0,), density)).best_orders()
    masks = _watched(pipe, generate, _Watch(block_size, until, density, orders))
    found = masks.found(type(_only_model(pipe)).__name__)
    found.save(path)
    return found


def learn_axes(
    pipe: Any, generate: Callable[[Any], Any], *, density: float = 0.3, block_size: BlockSize = (64, 64)
) -> AxesByHead:
    """Find the order of the axes for each head of a pipeline, for `order: {kind: axes_by_head, heads: ...}`.

    Args:
        pipe, generate: as in `learn_masks`; called once.
        density: the share of its blocks that a head keeps where orders are compared, in (0, 1].
        block_size: (query rows, key rows).

    Raises:
        ValueError: as in `learn_masks`.
    """
    orders = _watched(pipe, generate, _Watch(block_size, (1.0,), density)).best_orders()
    return AxesByHead(tuple(axes_of(layer) for layer in orders))


def _watched(pipe: Any, generate: Callable[[Any], Any], watch: _Watch) -> _Watch:
    _only_model(pipe)
    with accelerated(pipe, watch):
        watch.begin()
        generate(pipe)
    return watch


def _only_model(pipe: Any) -> Any:
    models = supported_models(pipe)
    if len(models) != 1:
        raise ValueError(f"masks are of one model: pass one of {', '.join(models) or 'a supported class'}")
    return next(iter(models.values()))


class _Watch(Policy):
    """Keeps every block, and adds up what each is worth; its counts belong to one run of `learn_masks`."""

    method = "watch"

    def __init__(
        self, block_size: BlockSize, until: tuple[float, ...], density: float, orders: Tensor | None = None
    ) -> None:
        self.block_size, self.until, self.density, self.orders = block_size, until, density, orders
        self.begin()

    def begin(self) -> None:
        """Forget what was seen, such as the call that a method is tried on when it is put in."""
        self.grids: set[TokenGrid] = set()
        self.n_layers = 0
        self.kept: dict[int, Tensor] = {}
        self.mass: dict[tuple[int, int], Tensor] = {}

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        grid = require_grid(self.method, q.shape[2], k.shape[2], grid, spans=True)
        self.grids.add(grid)
        self.n_layers = context.n_layers
        if len(self.grids) == 1 and self.orders is None:
            self._compare_orders(q, k, context)
        elif len(self.grids) == 1:
            self._add_mass(q, k, context)
        return BlockLayout.full(q.shape[2], k.shape[2], self.block_size, q.device)

    def best_orders(self) -> Tensor:
        """Uint8 [L, H]: the order in which the blocks of a head's budget hold most of its attention."""
        assert self.grid
        return torch.stack([total.argmax(dim=0).to(torch.uint8).cpu() for total in self._by_layer(self.kept)])

    def found(self, model: str) -> MaskFile:
        assert self.orders is not None
        parts = []
        for part in range(len(self.until)):
            # A part of the schedule in which no step fell has the masks of the last one that had.
            known = max((p for p, _ in self.mass if p <= part), default=min(p for p, _ in self.mass))
            masses = self._by_layer({layer: mass for (p, layer), mass in self.mass.items() if p == known})
            keep = [
                self._heaviest(mass[None].cpu(), axes_of(numbers))[0]
                for mass, numbers in zip(masses, self.orders, strict=True)
            ]
            parts.append(torch.stack(keep))
        return MaskFile.of_masks(
            torch.stack(parts),
            orders=self.orders,
            until=self.until,
            grid=self.grid,
            block_size=self.block_size,
            model=model,
        )

    def _compare_orders(self, q: Tensor, k: Tensor, context: Context) -> None:
        for number in range(len(AXES)):
            axes = (AXES[number],) * q.shape[1]
            mass = self._mass_in_order(q, k, axes)
            keep = self._heaviest(mass, axes)
            held = (mass * keep).sum(dim=(0, 2, 3))
            total = self.kept.setdefault(context.layer, torch.zeros(len(AXES), q.shape[1], device=q.device))
            total[number] += held

    def _add_mass(self, q: Tensor, k: Tensor, context: Context) -> None:
        assert self.orders is not None
        part = part_at(self.until, context.progress)
        mass = self._mass_in_order(q, k, axes_of(self.orders[context.layer])).sum(dim=0)
        key = (part, context.layer)
        self.mass[key] = self.mass[key] + mass if key in self.mass else mass

    def _mass_in_order(self, q: Tensor, k: Tensor, axes: tuple[AxesName, ...]) -> Tensor:
        """Float32 [B, H, Mb, Nb], each head's blocks cut from its own order."""
        order = order_by_head(axes, self.grid, q.device)
        return Exact().mass(order.permute(q), order.permute(k), self.block_size)

    def _heaviest(self, mass: Tensor, axes: tuple[AxesName, ...]) -> Tensor:
        """Bool [B, H, Mb, Nb]: what each head keeps of its mass, each in its own order."""
        must = always_by_head(Always(), axes, self.grid, self.block_size, mass.device)[None]
        return keep_heaviest(mass, must, None, "head", self.density)

    @property
    def grid(self) -> TokenGrid:
        """The one grid there was."""
        if len(self.grids) != 1:
            sizes = ", ".join(map(str, self.grids)) or "none"
            raise ValueError(
                f"masks are of one grid: all videos must be of one size, and all layers, got grids of {sizes}"
            )
        return next(iter(self.grids))

    def _by_layer(self, found: dict[int, Tensor]) -> list[Tensor]:
        missing = [layer for layer in range(max(self.n_layers, 1)) if layer not in found]
        if missing:
            raise ValueError(f"layers {missing} made no attention call that could be looked at")
        return [found[layer] for layer in range(self.n_layers)]
