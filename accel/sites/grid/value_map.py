"""Value map: the values move with the timestep's modulation; what was captured follows them by least squares.

The map of a head takes the values at capture to the values now. It is fitted on about a thousand tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from accel.sites.grid.padding import real_tokens

SAMPLED_TOKENS = 1024
RIDGE = 1e-3  # of the mean variance of the values


@dataclass(frozen=True)
class Sample:
    """What is kept of the values at capture.

    Args:
        values: [B, H, n, D], some tokens' values less their mean.
        inverse: float32 [B, H, D, D], of their regularised Gram matrix.
    """

    values: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, v: Tensor, heads: int, lengths: Tensor | None) -> Sample:
        """Of the values [B, Hkv, N, D]; for the rest see `sampled`."""
        values = sampled(v, heads, lengths)
        return cls(values.to(v.dtype), torch.linalg.inv(gram_with_ridge(values, RIDGE)))

    def map_to(self, v: Tensor, lengths: Tensor | None) -> Tensor:
        """Float32 [B, H, D, D]: these values -> the values [B, Hkv, N, D] now."""
        then, now = self.values.float(), sampled(v, self.values.shape[1], lengths)
        return self.inverse @ (then.transpose(2, 3) @ now)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.inverse.nbytes


def sample_bytes(tokens: int, heads: int, dim: int, itemsize: int) -> int:
    """Bytes of the sample of one site, for one sample of a batch."""
    some = len(range(0, tokens, _stride(tokens)))
    return heads * dim * (some * itemsize + dim * torch.float32.itemsize)


def gram_with_ridge(rows: Tensor, ridge: float) -> Tensor:
    """[B, H, D, D], of rows [B, H, n, D]; the ridge is a share of their mean variance."""
    gram = rows.transpose(2, 3) @ rows
    scale = gram.diagonal(dim1=2, dim2=3).mean(dim=2)[..., None, None]
    # Rows that are all equal have a Gram matrix of zeros, and no inverse without a little more.
    return gram + (ridge * scale + 1e-12) * torch.eye(gram.shape[3], device=rows.device)


def sampled(v: Tensor, heads: int, lengths: Tensor | None = None) -> Tensor:
    """Float32 [B, H, n, D]: about a thousand tokens' values less their mean, query heads' own; 0 for padding.

    Args:
        lengths: int32 [B], each sample's tokens before its padding; None if there is none.
    """
    step = _stride(v.shape[2])
    some = v[:, :, ::step].float()
    if lengths is None:
        some = some - some.mean(dim=2, keepdim=True)
    else:
        real = real_tokens(some, lengths, step)
        count = real.sum(dim=2, keepdim=True).clamp(min=1)
        mean = some.masked_fill(~real, 0.0).sum(dim=2, keepdim=True) / count
        some = (some - mean).masked_fill(~real, 0.0)
    return some.repeat_interleave(heads // v.shape[1], dim=1) if heads != v.shape[1] else some


def _stride(tokens: int) -> int:
    return max(1, tokens // SAMPLED_TOKENS)
