"""Exactness: the one tolerance of all tiers, in the error that PyTorch's own arithmetic makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from accel.kernels.attention import reference
from accel.kernels.layout.layout import BlockLayout


def disagreement(
    result: Sequence[Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    slack: float = 2.0,
    **options: Any,
) -> str | None:
    """Where (out, LSE) is farther from float64 than `slack` times the reference in q's type; None if near."""
    eager, exact = (
        reference.block_sparse_attention(q.to(t), k.to(t), v.to(t), layout, return_lse=True, **options)
        for t in (q.dtype, torch.float64)
    )
    for name, value, rounded, truth in zip(("out", "LSE"), result, eager, exact, strict=True):
        value, rounded, truth = value.double(), rounded.double(), truth.double()
        finite = truth.isfinite()
        if not torch.equal(value.isfinite(), finite) or not torch.equal(value[~finite], truth[~finite]):
            return f"{name}: not finite elsewhere than the truth"
        if not finite.any():
            continue
        error, budget = ((x - truth)[finite].abs().max().item() for x in (value, rounded))
        if not error <= slack * budget + 1e-5:
            return f"{name}: error {error:.2e} > {slack} x eager's {budget:.2e}"
    return None
