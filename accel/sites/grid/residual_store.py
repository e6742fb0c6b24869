"""Stores of a residual: a tensor [B, H, N, D] whole, in 8 or 4 bits or by rank, and the bytes each takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from accel.recipe.compensate import Rank, Store


class Stored(ABC):
    """A stored residual. `times` returns it, multiplied."""

    @abstractmethod
    def times(self, transport: Tensor | None, device: torch.device) -> Tensor:
        """Float32 [B, H, N, D]: the residual, times [B, H, D, D] if there is one, on `device`."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """What it holds."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())


@dataclass(frozen=True)
class Whole(Stored):
    """As it is, in the type of the model."""

    values: Tensor

    def times(self, transport: Tensor | None, device: torch.device) -> Tensor:
        return _times(_on(self.values, device).float(), transport)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)


@dataclass(frozen=True)
class Quantised(Stored):
    """In `bits` bits with one scale a row; of 4 bits two share a byte.

    Args:
        codes: int8 [B, H, N, D], or uint8 [B, H, N, ceil(D / 2)].
        scales: float16 [B, H, N, 1], of rows that are not larger than 65504.
        dim: D.
    """

    codes: Tensor
    scales: Tensor
    dim: int

    @classmethod
    def of(cls, values: Tensor, bits: int) -> Quantised:
        most = 2 ** (bits - 1) - 1
        # Scales below float16's smallest would be 0, and their rows infinite.
        scales = (values.abs().amax(dim=3, keepdim=True) / most).clamp(6e-8, 65504.0).half()
        codes = (values / scales.float()).round().clamp(-most, most).to(torch.int8)
        if bits == 4:
            even = pad(codes, (0, codes.shape[3] % 2)).to(torch.int16) + 8
            codes = (even[..., ::2] + even[..., 1::2] * 16).to(torch.uint8)
        return cls(codes, scales, values.shape[3])

    def times(self, transport: Tensor | None, device: torch.device) -> Tensor:
        codes, scales = _on(self.codes, device), _on(self.scales, device)
        if codes.dtype == torch.uint8:
            both = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(3)[..., : self.dim]
            return _times((both.float() - 8) * scales.float(), transport)
        return _times(codes.float() * scales.float(), transport)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.codes, self.scales


@dataclass(frozen=True)
class LowRank(Stored):
    """As a product of [B, H, N, r] and [B, H, r, D], the best of that rank."""

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, values: Tensor, rank: int, dtype: torch.dtype) -> LowRank:
        values = values.float()
        _, vectors = torch.linalg.eigh(values.transpose(2, 3) @ values)
        basis = vectors[..., -rank:]  # [B, H, D, r]
        return cls((values @ basis).to(dtype), basis.transpose(2, 3).to(dtype))

    def times(self, transport: Tensor | None, device: torch.device) -> Tensor:
        right = _on(self.right, device).float()
        return _on(self.left, device).float() @ _times(right, transport)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.left, self.right


def stored(values: Tensor, store: Store, dtype: torch.dtype, device: str = "same") -> Stored:
    """Keep `values` [B, H, N, D] as a recipe asks.

    Args:
        dtype: of the model.
        device: "same", or "cpu".
    """
    if isinstance(store, Rank):
        kept: Stored = LowRank.of(values, min(store.rank, values.shape[3]), dtype)
    elif store == "full":
        kept = Whole(values.to(dtype))
    else:
        kept = Quantised.of(values.float(), 8 if store == "int8" else 4)
    return kept if device == "same" or values.device.type == "cpu" else _on_host(kept)


def stored_bytes(store: Store, tokens: int, heads: int, dim: int, itemsize: int) -> int:
    """Bytes of one residual of one sample."""
    if isinstance(store, Rank):
        return heads * (tokens + dim) * min(store.rank, dim) * itemsize
    if store == "full":
        return heads * tokens * dim * itemsize
    return heads * tokens * ((dim if store == "int8" else (dim + 1) // 2) + 2)


def _on(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


def _on_host(kept: Stored) -> Stored:
    """The same in host memory, pinned where a GPU can read it so."""
    moved = {name: _pinned(value) for name, value in vars(kept).items() if isinstance(value, Tensor)}
    return type(kept)(**{**vars(kept), **moved})


def _pinned(tensor: Tensor) -> Tensor:
    host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    # Blocking: the tensor's memory may be given to somebody else right after.
    return host.copy_(tensor)


def _times(values: Tensor, transport: Tensor | None) -> Tensor:
    return values if transport is None else values @ transport
