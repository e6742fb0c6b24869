"""Tiers: the implementations of block-sparse attention, and which of them a machine gets."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from accel.kernels.attention.tier import FLOATS, Precision, Tier
from accel.kernels.check_results import PASSED, check_result
from accel.kernels.timings import USUAL_BLOCK, Call, fastest_first

if TYPE_CHECKING:
    from accel.kernels.layout.layout import BlockLayout

# Where each tier's `TIER` is. Of Triton and the tiers that have passed their check, the fastest on the
# machine runs; if they have not been timed, the first.
TIERS: dict[str, str] = {
    "reference": "accel.kernels.attention.reference",
    "torch": "accel.kernels.attention.gathered",
    "triton": "accel.kernels.attention.triton_tier",
    "hopper": "accel.kernels.hopper.tier",
    "cudnn": "accel.kernels.cudnn.tier",
    "int8": "accel.kernels.int8.tier",
}


def tier(name: str) -> Tier:
    """The tier of a name: a key of `TIERS`."""
    found: Tier = importlib.import_module(TIERS[name]).TIER
    return found


def checked_tiers(precision: Precision | None = None) -> tuple[str, ...]:
    """The tiers that run once they have passed their check: without rounding, or of a precision."""
    return tuple(name for name in TIERS if tier(name).needs_check and tier(name).precision == precision)


UNCHECKED = "has not been checked on this machine yet; `accel doctor --check` does so"


@dataclass(frozen=True)
class TierChoice:
    """Which tier runs and why.

    Args:
        name: a key of `TIERS`.
        reason: one line, for people.
        unsupported: why no tier can run such a call; None if one can.
    """

    name: str
    reason: str
    unsupported: str | None = None


def choose_tier(
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int,
    layout: BlockLayout | None = None,
    precision: Precision | None = None,
) -> TierChoice:
    """The tier for heads of `head_dim` in `dtype` on `device`, and for `layout` if one is given: Triton on a
    GPU, or one that has passed its check there, unless it was timed and is slower; PyTorch elsewhere.

    Args:
        precision: what queries and keys may be rounded to, where a tier that does so has passed its check.
    """
    device = torch.device(device)
    not_triton = cannot_run("triton", device, dtype, head_dim)
    if device.type == "cuda" and not_triton is None:
        return _choose_on_gpu(device, dtype, head_dim, layout, precision)
    not_torch = cannot_run("torch", device, dtype, head_dim)
    return TierChoice(
        "torch",
        f"gathers the listed blocks in PyTorch; the triton tier {not_triton}",
        unsupported=None if not_torch is None else f"the torch tier {not_torch}",
    )


def _choose_on_gpu(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    layout: BlockLayout | None,
    precision: Precision | None,
) -> TierChoice:
    rounding = checked_tiers(precision) if precision else ()
    passed, others = [], ""
    for name in (*rounding, *checked_tiers()):
        if cannot_run(name, device, dtype, head_dim) is not None:
            continue
        found = check_result(name, device, dtype, head_dim) or UNCHECKED
        against = None if found == PASSED else found
        if against is None and layout is not None:
            against = cannot_take(name, layout)
        if against is None:
            passed.append(name)
        else:
            others += f"; the {name} tier {against}"
    call = Call(device, dtype, head_dim, USUAL_BLOCK if layout is None else layout.block_size)
    fastest = fastest_first([*passed, "triton"], call)[0]
    if fastest != "triton":
        return TierChoice(fastest, "a kernel for this GPU, which has passed its check on this machine")
    others = "".join(f"; the {name} tier was slower here" for name in passed) + others
    return TierChoice("triton", f"a Triton kernel for any GPU{others}")


def cannot_run(name: str, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why tier `name` cannot run such a call, phrased to follow its name; None if it can."""
    device = torch.device(device)
    if dtype not in FLOATS:
        return f"does not take {dtype}"
    if device.type == "meta":
        return "needs numbers, and tensors on the meta device have none"
    return tier(name).cannot_run(device, dtype, head_dim)


def cannot_take(name: str, layout: BlockLayout) -> str | None:
    """Why tier `name` cannot run a layout, phrased to follow its name; None if it can."""
    return tier(name).cannot_take(layout)


def attention_for(
    q: Tensor, layout: BlockLayout, asked: str | None, precision: Precision | None = None
) -> Callable[..., Any]:
    """The `block_sparse_attention` of the tier that is asked for, or of the best one for the call and for the
    precision that is allowed.

    Raises:
        ValueError: if it cannot run there.
    """
    if asked is None:
        choice = choose_tier(q.device, q.dtype, q.shape[-1], layout, precision)
        if choice.unsupported is not None:
            raise ValueError(f"no tier can run this call: {choice.unsupported}")
        return tier(choice.name).load()
    if asked not in TIERS:
        raise ValueError(f"tier must be one of {sorted(TIERS)}, got {asked!r}")
    if reason := cannot_run(asked, q.device, q.dtype, q.shape[-1]):
        raise ValueError(f"the {asked} tier cannot run this call: it {reason}")
    return tier(asked).load()
