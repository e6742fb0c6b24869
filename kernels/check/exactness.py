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
        reference.block_sparse_attention(q.to(t), k.to(t), v.to(t), layout, **options)
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


def rounded_too_far(
    result: Sequence[Tensor], q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, most: float
) -> str | None:
    """What is wrong with (out, LSE) of a tier that rounds queries and keys; None if nothing is.

    Args:
        most: of all rows the norm of the error over that of the output; of one row, four times as much.
    """
    exact = reference.block_sparse_attention(q.double(), k.double(), v.double(), layout)
    (out, lse), (true_out, true_lse) = ((x.double() for x in pair) for pair in (result, exact))
    finite = true_lse.isfinite()
    if not torch.equal(lse.isfinite(), finite) or not out.isfinite().all() or out[~finite].any():
        return "not finite, or not zero, elsewhere than the truth"
    apart, size = (out - true_out)[finite].norm(dim=-1), true_out[finite].norm(dim=-1)
    error = (apart.norm() / size.norm().clamp(min=1e-30)).item() if len(size) else 0.0
    worst = (apart / size.clamp(min=0.1 * size.mean())).max().item() if len(size) else 0.0
    if not (error <= most and worst <= 4 * most):
        return f"out: relative error {error:.4f} > {most:g}, of a row {worst:.4f} > {4 * most:g}"
    return None
