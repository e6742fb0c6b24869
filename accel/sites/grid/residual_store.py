"""Stores of a residual: a tensor [B, H, N, D] whole, in 8 or 4 bits or by rank, and the bytes each takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from accel.recipe.compensate import Rank, Store

ALL = slice(None)
BATCHED = 32  # the largest eigenproblems that cuSOLVER solves in batches
SPARE, ROUNDS = 8, 3  # of a subspace iteration


class Stored(ABC):
    """A stored residual. `times` returns it, multiplied."""

    @abstractmethod
    def times(self, transport: Tensor | None, device: torch.device, rows: slice = ALL) -> Tensor:
        """Float32 [B, H, n, D]: some rows of it, times [B, H, D, D] if there is one, on `device`."""

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

    def times(self, transport: Tensor | None, device: torch.device, rows: slice = ALL) -> Tensor:
        return _times(_on(self.values[:, :, rows], device).float(), transport)

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

    def times(self, transport: Tensor | None, device: torch.device, rows: slice = ALL) -> Tensor:
        codes, scales = (_on(each[:, :, rows], device) for each in (self.codes, self.scales))
        if codes.dtype == torch.uint8:
            both = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(3)[..., : self.dim]
            return _times((both.float() - 8) * scales.float(), transport)
        return _times(codes.float() * scales.float(), transport)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.codes, self.scales


@dataclass(frozen=True)
class LowRank(Stored):
    """As a product of [B, H, N, r] and [B, H, r, D], nearly the best of that rank."""

    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, values: Tensor, rank: int, dtype: torch.dtype) -> LowRank:
        values = values.float()
        basis = leading(values.transpose(2, 3) @ values, rank)
        return cls((values @ basis).to(dtype), basis.transpose(2, 3).to(dtype))

    def times(self, transport: Tensor | None, device: torch.device, rows: slice = ALL) -> Tensor:
        left, right = self.factors(transport, device, rows)
        return left.float() @ right

    def factors(
        self, transport: Tensor | None, device: torch.device, rows: slice = ALL
    ) -> tuple[Tensor, Tensor]:
        """[B, H, n, r] and, in float32, [B, H, r, D]: what `times` is the product of."""
        return _on(self.left[:, :, rows], device), _times(_on(self.right, device).float(), transport)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.left, self.right


def leading(gram: Tensor, rank: int) -> Tensor:
    """[B, H, D, rank]: orthonormal, nearly the leading eigenvectors of [B, H, D, D], the first of them last.

    By subspace iteration. GPUs solve eigenproblems of at most 32 x 32 in batches, and larger ones one after
    the other, which for the heads of a large model takes half as long as dense attention.
    """
    dim, count = gram.shape[3], rank + SPARE
    if dim <= max(BATCHED, count):
        return torch.linalg.eigh(gram).eigenvectors[..., -rank:]
    start = torch.randn(dim, count, generator=torch.Generator().manual_seed(0))
    basis = start.to(gram.device).expand(*gram.shape[:2], dim, count)
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(gram @ basis).Q
    return basis @ torch.linalg.eigh(basis.transpose(2, 3) @ gram @ basis).eigenvectors[..., -rank:]


def add(
    out: Tensor, parts: Sequence[tuple[float, Stored]], transport: Tensor | None, rows: slice = ALL
) -> None:
    """Add shares of residuals to some rows of `out` [B, H, N, D], in place, and round once.

    Args:
        transport: multiplies them all.
    """
    some = out[:, :, rows]
    low = [(share, values) for share, values in parts if isinstance(values, LowRank)]
    if len(low) < len(parts):
        whole = sum(share * values.times(transport, out.device, rows) for share, values in parts)
        some.copy_(some.float() + whole)
        return
    # One product, added to the output by the same kernel: nothing of its size is made.
    factors = [(share, *values.factors(transport, out.device, rows)) for share, values in low]
    left = torch.cat([left for _, left, _ in factors], dim=3).to(out.dtype)
    right = torch.cat([share * right for share, _, right in factors], dim=2).to(out.dtype)
    for each, *product in zip(some, left, right, strict=True):
        each.baddbmm_(*product)


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
