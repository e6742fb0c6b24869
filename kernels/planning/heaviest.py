"""keep_heaviest: which of the blocks that share a budget to keep, found without sorting them by index.

Masses are compared as integers: the bits of a float32, inverted for negative numbers, order as
the numbers do. The key of the lightest block that still fits a budget is searched for; what is above it is
kept, and of what equals it the first in order of head, row and column. So budgets are met exactly, and the
result does not depend on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from accel.kernels.planning.budgets import FIRST_POOLED_AXIS, Budget, available_blocks, bounds

NEVER, ALWAYS = -(2**31), 2**31 - 1  # no float32 but a NaN has these keys


def keep_heaviest(
    mass: Tensor,
    must: Tensor,
    may: Tensor | None,
    budget: Budget,
    density: float,
    min_density: float = 0.0,
    share: float | None = None,
    least: float = 0.0,
) -> Tensor:
    """Bool [B, H, Mb, Nb]: the heaviest blocks of each row, head or layer. No host sync but on a CPU.

    Args:
        mass: float32 [B, H, Mb, Nb]. NaN weighs less than any number. -inf and negative numbers are allowed
            without `share`; with it, masses must be finite and not negative.
        must: bool, broadcasting to `mass`: kept whatever they weigh, within the budget or beyond it. So is
            the heaviest block of every row.
        may: bool, broadcasting to `mass`: no others are ever kept; None where all may.
        budget: what shares one budget; samples never do.
        density: kept blocks / blocks that may be kept, in [0, 1], rounded to whole blocks.
        min_density, share: with a share, the fewest blocks that have this share of the mass, in (0, 1), but
            at least `min_density` and at most `density` of those that may be kept.
        least: blocks a row, on average over those that share a budget, where `density` allows fewer.
    """
    if mass.is_cuda:
        from accel.kernels.planning.heaviest_triton import keep_heaviest as on_gpu

        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(mass):
            return on_gpu(mass, must, may, budget, density, min_density, share, least)
    lowest, highest = bounds(mass, may, budget, density, min_density, least)
    available = available_blocks(mass, may, budget)
    keys = block_keys(mass, must, may).flatten(FIRST_POOLED_AXIS[budget])
    required = (keys == ALWAYS).sum(dim=-1, keepdim=True)
    if share is None:
        count = highest.clamp(min=required).clamp(max=available)
        last = nth_largest(keys, count)
    else:
        ranked = keys.sort(dim=-1, descending=True).values
        anyway = mass.nan_to_num(nan=0.0).flatten(FIRST_POOLED_AXIS[budget]).double()
        anyway = anyway.masked_fill(keys != ALWAYS, 0).sum(dim=-1, keepdim=True)
        count = _reaching(ranked, anyway, share).clamp(lowest, highest)
        count = count.clamp(min=required).clamp(max=available)
        last = ranked.gather(-1, (count - 1).clamp(min=0).long())
    above, equal = keys > last, (keys == last) & (count > 0)
    left = count - above.sum(dim=-1, keepdim=True)
    return (above | (equal & (equal.cumsum(dim=-1, dtype=torch.int32) <= left))).reshape(mass.shape)


def block_keys(mass: Tensor, must: Tensor, may: Tensor | None) -> Tensor:
    """Int32 [B, H, Mb, Nb], ordered as the masses; ALWAYS and NEVER where the mass is not asked."""
    bits = torch.where(mass.isnan(), -torch.inf, mass + 0.0).view(torch.int32)
    keys = torch.where(bits < 0, bits ^ ALWAYS, bits)
    if may is not None:
        keys = keys.masked_fill(~may, NEVER)
    keys = keys.masked_fill(must, ALWAYS) if may is None else keys.masked_fill(must & may, ALWAYS)
    best = _heaviest(mass, may)
    return keys.scatter(-1, best, torch.where(keys.gather(-1, best) == NEVER, NEVER, ALWAYS).int())


def nth_largest(keys: Tensor, count: Tensor) -> Tensor:
    """Int32 [P, 1]: the largest key that `count` [P, 1] of a row's `keys` [P, L] reach."""
    if keys.device.type != "cpu" or torch.compiler.is_compiling():
        return bisect(lambda key: (keys >= key).sum(dim=-1, keepdim=True) >= count, count.shape, keys.device)
    most = max(int(count.max()), 1)
    index = (count - 1).clamp(min=0).long()
    found = keys.topk(most, dim=-1).values.gather(-1, index)
    return torch.where(count > 0, found, ALWAYS).int()


def bisect(reached, shape: torch.Size, device: torch.device) -> Tensor:  # type: ignore[no-untyped-def]
    """Int32 of `shape`: the largest key for which `reached(key)` holds, if it holds up to some key."""
    key = torch.full(shape, NEVER, dtype=torch.int64, device=device)
    for bit in range(31, -1, -1):
        higher = key + (1 << bit)
        key = torch.where(reached(higher.int()), higher, key)
    return key.int()


def _heaviest(mass: Tensor, may: Tensor | None) -> Tensor:
    """Int64 [B, H, Mb, 1]: the first of the heaviest blocks of each row that may be kept."""
    mass = mass.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if may is None:
        return mass.argmax(dim=-1, keepdim=True)
    best = mass.masked_fill(~may, -torch.inf).argmax(dim=-1, keepdim=True)
    # A row of nothing but -inf has its first block that may be kept for the heaviest.
    first = may.expand_as(mass).int().argmax(dim=-1, keepdim=True)
    return torch.where(may.expand_as(mass).gather(-1, best), best, first)


def _reaching(ranked: Tensor, anyway: Tensor, share: float) -> Tensor:
    """Int64 [P, 1]: how many of the falling keys `ranked` [P, L] have a share of the mass.

    Those kept anyway come first; their masses add up to `anyway` [P, 1].
    """
    free = ranked.view(torch.float32).double().masked_fill((ranked == ALWAYS) | (ranked == NEVER), 0)
    reached = anyway + free.cumsum(dim=-1)
    return (reached < share * reached[..., -1:]).sum(dim=-1, keepdim=True) + 1
