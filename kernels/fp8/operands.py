"""Operands of the FP8 kernel: e4m3 with its scales, values as the tensor cores want them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.fp8.specification import quantise, rotate
from accel.kernels.layout.blocks import per_head

WIDTH = 128  # values are padded to a multiple of it: each channel begins at a line of the cache


class Operands(NamedTuple):
    """What the kernel reads; scales and shift are float32, all else e4m3.

    Both operands of a product in eight bits have to lie along the axis that is summed over, so values are
    transposed. A thread holds weights 2 t, 2 t + 1, 8 + 2 t and 9 + 2 t of sixteen, and would have to hold
    4 t to 4 t + 3; values change places instead, and weights never leave their registers.

    Args:
        q: [B, H, M, D], q_scales [B, H, Mb].
        k: [B, Hkv, N, D], k_scales [B, Hkv].
        v: [B, Hkv, D, N up to the next multiple of WIDTH]: place 4 t + 2 j + e of sixteen is token
            8 j + 2 t + e; zero behind the last token. v_scales [B, Hkv, D].
        shift: [B, H, M], what the mean key, which `k` lacks, adds to each row's logits.
    """

    q: Tensor
    q_scales: Tensor
    k: Tensor
    k_scales: Tensor
    v: Tensor
    v_scales: Tensor
    shift: Tensor


def operands(q: Tensor, k: Tensor, v: Tensor, rows: int, scale: float) -> Operands:
    """q [B, H, M, D] in blocks of `rows` queries, k and v [B, Hkv, N, D] as the kernel reads them."""
    eight = quantise(q, k, v, rows)
    shift = (rotate(q) @ per_head(eight.mean, q.shape[1]).transpose(-1, -2) * scale)[..., 0]
    values = in_places(eight.v)
    return Operands(eight.q, eight.q_scales, eight.k, eight.k_scales, values, eight.v_scales, shift)


def in_places(v: Tensor) -> Tensor:
    """e4m3 [B, Hkv, N, D] -> [B, Hkv, D, N up to a multiple of WIDTH], each sixteen in their places."""
    columns = F.pad(v.view(torch.uint8).transpose(2, 3), (0, -v.shape[2] % WIDTH))
    return columns.unflatten(3, (-1, 2, 4, 2)).transpose(4, 5).flatten(3).view(v.dtype)
