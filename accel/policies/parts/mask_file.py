"""MaskFile: masks by part of the schedule, layer and head, one bit a block, as safetensors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from accel.kernels.from_sizes import from_sizes
from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import block_counts
from accel.policies.parts.ordering.orders import AxesName
from accel.policies.parts.schedule_parts import check_ends

FORMAT = "sparse-accel masks 1"
AXES: tuple[AxesName, ...] = get_args(AxesName)


@dataclass(frozen=True, eq=False)
class MaskFile:
    """What was found for one model at one size.

    P parts of the schedule, L layers, H heads, Mb and Nb blocks of queries and of keys.

    Args:
        bits: uint8 [P, L, H, Mb, ceil(Nb / 8)]; bit n of byte i says whether block 8 i + n is kept.
        orders: uint8 [L, H], which of `AXES` each head's blocks are cut from.
        until: the share of the schedule at which each part ends, ascending to 1.
        grid: the token grid the masks are of.
        block_size: (query rows, key rows).
        model: the class they were found on.

    Raises:
        ValueError: if these contradict each other.
    """

    bits: Tensor
    orders: Tensor
    until: tuple[float, ...]
    grid: TokenGrid
    block_size: tuple[int, int]
    model: str

    def __post_init__(self) -> None:
        rows, columns = block_counts(self.grid, self.block_size)
        expected = (len(self.until), *self.orders.shape, rows, -(-columns // 8))
        if self.bits.dtype != torch.uint8 or tuple(self.bits.shape) != expected:
            raise ValueError(f"bits must be uint8 {expected}, got {self.bits.dtype} {tuple(self.bits.shape)}")
        if self.orders.dtype != torch.uint8 or self.orders.numel() == 0 or self.orders.max() >= len(AXES):
            raise ValueError(f"orders must be uint8 below {len(AXES)}, got {self.orders.dtype}")
        check_ends(self.until)

    @classmethod
    def of_masks(cls, keep: Tensor, **rest: object) -> MaskFile:
        """Of masks as bool [P, L, H, Mb, Nb]."""
        eights = torch.nn.functional.pad(keep, (0, -keep.shape[-1] % 8)).unflatten(-1, (-1, 8))
        bits = (eights * 2 ** torch.arange(8)).sum(dim=-1, dtype=torch.uint8)
        return cls(bits, **rest)  # type: ignore[arg-type]

    def keep(self, part: int, layer: int, device: torch.device) -> Tensor:
        """Bool [H, Mb, Nb] of one layer in one part of the schedule."""
        shifts = torch.arange(8, dtype=torch.uint8, device=device)
        bits = _bits_on(self, device)[part, layer, ..., None] >> shifts & 1
        return bits.flatten(-2)[..., : block_counts(self.grid, self.block_size)[1]].bool()

    def save(self, path: str | Path) -> None:
        grid = {name: getattr(self.grid, name) for name in TokenGrid.__dataclass_fields__}
        about = {"until": self.until, "grid": grid, "block_size": self.block_size, "model": self.model}
        tensors = {"bits": self.bits.contiguous(), "orders": self.orders.contiguous()}
        save_file(tensors, path, {"format": FORMAT, "about": json.dumps(about), "sha256": _checksum(tensors)})


@from_sizes(4)
def _bits_on(masks: MaskFile, device: torch.device) -> Tensor:
    return masks.bits.to(device)


def axes_of(numbers: Tensor) -> tuple[AxesName, ...]:
    """The orders that a row of `MaskFile.orders` names."""
    return tuple(AXES[number] for number in numbers.tolist())


def load_masks(path: str | Path) -> MaskFile:
    """The masks in a file; read once as long as it does not change.

    Raises:
        ValueError: if the file is missing, is not one of masks, or was damaged.
    """
    try:
        state = Path(path).stat()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    return _load(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _load(path: str, changed: int, size: int) -> MaskFile:
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            if said.get("format") != FORMAT:
                raise ValueError(f"{path}: not a file of masks ({FORMAT}), got {said.get('format')}")
            tensors = {name: file.get_tensor(name) for name in ("bits", "orders")}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a file of masks: {error}") from error
    if said.get("sha256") != _checksum(tensors):
        raise ValueError(f"{path}: the masks are not the saved ones: find them again")
    about = json.loads(said["about"])
    return MaskFile(
        **tensors,
        until=tuple(about["until"]),
        grid=TokenGrid(**about["grid"]),
        block_size=tuple(about["block_size"]),
        model=about["model"],
    )


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
