"""What families share to read a model: its modules, a forward's arguments, a latent's grid."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from accel.patches.grid import TokenGrid


def named_arguments(model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of one forward by name, however they were passed."""
    return {**dict(zip(argument_names(type(model)), args, strict=False)), **kwargs}


def argument_names(model_class: type) -> list[str]:
    """The names of a forward's arguments in order.

    A subclass that hands on whatever it is given (`*args`) is called as its parent is.
    """
    for cls in model_class.__mro__:
        if "forward" not in vars(cls):
            continue
        parameters = list(inspect.signature(vars(cls)["forward"]).parameters.values())[1:]
        if all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters):
            return [parameter.name for parameter in parameters]
    return []


def timestep_argument(args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
    """The `timestep` of one forward whose arguments are named, of any shape.

    Raises:
        TypeError: if it is not a tensor.
    """
    timestep = kwargs["timestep"]
    if not isinstance(timestep, Tensor):
        raise TypeError(f"timestep is not a tensor but {type(timestep).__name__}")
    return timestep


def modules_named(*patterns: str) -> Callable[[nn.Module], list[tuple[str, nn.Module]]]:
    """Lists the modules of a model whose dotted name fits one of the globs, in the order of the model."""

    def modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
        return [
            (name, module)
            for name, module in model.named_modules()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        ]

    return modules


# Of the dual-stream blocks, then of the single-stream blocks.
joint_attention = modules_named("transformer_blocks.*.attn", "single_transformer_blocks.*.attn")


def unit_timestep(args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
    """The timestep of one forward that takes it in [0, 1]."""
    return kwargs["timestep"] * 1000


def latent_grid(
    latent: Tensor, patch: Sequence[int], axes: Sequence[int] = (2, 3, 4), **others: Any
) -> TokenGrid:
    """The grid of a latent video that is cut into patches of (frames, rows, columns).

    Args:
        latent: the video, of five dimensions.
        patch: the size of one patch along frames, rows and columns.
        axes: the dimensions of the latent that are frames, rows and columns.
        others: fields of the grid other than its sides.
    """
    frames, height, width = (latent.shape[axis] // size for axis, size in zip(axes, patch, strict=True))
    return TokenGrid(frames, height, width, **others)


def patches_of_history(latent: Tensor | None, patch: Sequence[int]) -> int:
    """Tokens of latent history [B, C, F, H, W], filled up to whole patches of (frames, rows, columns)."""
    if latent is None:
        return 0
    return math.prod(math.ceil(size / side) for size, side in zip(latent.shape[2:], patch, strict=True))


def raster_size(positions: Tensor) -> tuple[int, int, int]:
    """Frames, rows and columns of positions [N, (frame, row, column)] that list a full grid in order.

    Raises:
        ValueError: if they do not. Costs one device read.
    """
    positions = positions.cpu()
    axes = [torch.unique(axis) for axis in positions.unbind(1)]
    if not torch.equal(torch.cartesian_prod(*axes), positions):
        raise ValueError("tokens of more than one grid")
    frames, height, width = (len(axis) for axis in axes)
    return frames, height, width


def leading_raster(positions: Tensor) -> tuple[tuple[int, int, int], int]:
    """Frames, rows and columns of the full grid that positions [N, (frame, row, column)] begin with, and how
    many tokens follow: those of images of other sizes.

    Raises:
        ValueError: if they do not begin with a full grid. Costs one device read.
    """
    positions = positions.cpu()
    borders = (positions[1:, 0] != positions[:-1, 0]).nonzero().flatten() + 1
    first, *others = positions.tensor_split(borders)
    _, height, width = raster_size(first)
    same = takewhile(lambda frame: torch.equal(frame[:, 1:], first[:, 1:]), others)
    size = (1 + len(list(same)), height, width)
    return size, len(positions) - math.prod(size)


def lengths(*embeddings: Tensor | None) -> int:
    """Total number of tokens in several embeddings [B, tokens, C], ignoring None."""
    return sum(embedding.shape[1] for embedding in embeddings if embedding is not None)
