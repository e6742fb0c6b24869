"""TokenOrder: a permutation of tokens, shared by all heads or one per head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenOrder:
    """Where each position of the permuted sequence comes from.

    Args:
        indices: int64, [N] (every head alike) or [B | 1, H | 1, N]; `permuted[i] = tokens[indices[i]]`.

    Raises:
        ValueError: if the shape or the type is another one. That `indices` is a bijection is not checked
            here (it would cost a pass over the device); `TokenOrder.checked` does.
    """

    indices: Tensor

    def __post_init__(self) -> None:
        if self.indices.dtype != torch.int64 or self.indices.ndim not in (1, 3):
            raise ValueError(
                "indices must be int64 of shape [N] or [B, H, N], "
                f"got {self.indices.dtype} {tuple(self.indices.shape)}"
            )

    @classmethod
    def checked(cls, indices: Tensor) -> TokenOrder:
        """The same, refusing anything that is not a permutation of 0..N-1."""
        expected = torch.arange(indices.shape[-1], device=indices.device).expand_as(indices)
        if not torch.equal(indices.sort(dim=-1).values, expected):
            raise ValueError("indices must be a permutation of 0..N-1 along the last axis")
        return cls(indices)

    @property
    def length(self) -> int:
        return self.indices.shape[-1]

    @property
    def inverse(self) -> TokenOrder:
        return TokenOrder(self.indices.argsort(dim=-1))

    def permute(self, tokens: Tensor) -> Tensor:
        """[B, H, N, D] in sequence order -> the same in this order.

        Of fewer heads than this order has, each is permuted for all the heads of its group.
        """
        if tokens.is_cuda:
            return self._move(tokens, back=False)
        if self.indices.ndim == 3 and self.indices.shape[1] > tokens.shape[1]:
            tokens = tokens.repeat_interleave(self.indices.shape[1] // tokens.shape[1], dim=1)
        if self.indices.ndim == 1:
            return tokens.index_select(2, self.indices)
        return tokens.gather(2, self._row_index(tokens))

    def restore(self, tokens: Tensor) -> Tensor:
        """[B, H, N, D] or [B, H, N] in this order -> the same in sequence order."""
        if tokens.is_cuda:
            cells = tokens if tokens.ndim == 4 else tokens[..., None]
            return self._move(cells, back=True).view(tokens.shape)
        out = torch.empty_like(tokens)
        if self.indices.ndim == 1:
            return out.index_copy_(2, self.indices, tokens)
        return out.scatter_(2, self._row_index(tokens), tokens)

    def _move(self, tokens: Tensor, back: bool) -> Tensor:
        from accel.kernels.layout.triton import move_rows

        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(tokens):
            return move_rows(tokens, self.indices, back)

    def _row_index(self, tokens: Tensor) -> Tensor:
        index = self.indices.reshape(*self.indices.shape, *[1] * (tokens.ndim - 3))
        return index.expand(tokens.shape)


def by_head(order: TokenOrder | None) -> Tensor | None:
    """Where tokens are in the sequence, int64 [B | 1, H | 1, N], contiguous; None if in its order."""
    if order is None:
        return None
    return (order.indices if order.indices.ndim == 3 else order.indices[None, None]).contiguous()
