"""Profile: how far each layer and head is from dense at each density, from the calls of one dense run.

A layer's effect on the guided velocity is about its own call's relative error, the same in every layer. So
one dense run says how to share a budget among layers, and no search over layers is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from accel.accelerate import accelerated, patches_of
from accel.kernels.attention.operation import block_sparse_attention
from accel.mistake import Mistake
from accel.patches.context import Context
from accel.policies.policy import Policy
from accel.recipe.recipe import DENSE, Recipe
from accel.recipe.schedule import whole
from accel.sites.stopwatch import Stopwatch

DENSITIES = (0.1, 0.2, 0.3, 0.45, 0.65)
AT_PROGRESS = (0.26, 0.55, 0.9)
FINEST = 0.02
LEAST_ERROR = 1e-12

PolicyAt = Callable[[float], Policy]


@dataclass(frozen=True)
class Place:
    """One head's error at one step, as a share of its layer's output."""

    site: str
    head: int
    step: int
    error: float


@dataclass(frozen=True)
class Profile:
    """Errors of calls.

    Args:
        sites: in call order.
        steps: that were looked at.
        squares: float64 [sites, steps, densities, heads], squared error / squared norm of the layer's output.
        seconds: float64 [sites, steps, densities + 1], of choosing blocks and attending to them on this
            machine; the last is dense attention's.
    """

    sites: tuple[str, ...]
    steps: tuple[int, ...]
    squares: Tensor
    seconds: Tensor

    @property
    def pays(self) -> float:
        """The highest density whose calls were faster than dense ones here; 0 if none were."""
        *sparse, dense = self.seconds.flatten(0, 1).median(dim=0).values.tolist()
        return max(
            (density for density, time in zip(DENSITIES, sparse, strict=True) if time < dense), default=0.0
        )

    def by_layer(self) -> Tensor:
        """Float64 [sites, densities]: mean over steps of a layer's squared relative error."""
        return self.squares.sum(dim=3).mean(dim=1)

    def map(self, density: float = 0.3) -> Tensor:
        """Float64 [sites, steps, heads]: each head's error at a density, as a share of its layer's output."""
        at = min(range(len(DENSITIES)), key=lambda number: abs(DENSITIES[number] - density))
        return self.squares[:, :, at].sqrt()

    def worst(self, density: float = 0.3, count: int = 20) -> list[Place]:
        """Where it hurts most at a density, worst first."""
        errors = self.map(density)
        order = errors.flatten().argsort(descending=True)[:count]
        places = zip(*(axis.tolist() for axis in torch.unravel_index(order, errors.shape)), strict=True)
        return [
            Place(self.sites[site], head, self.steps[step], float(errors[site, step, head]))
            for site, step, head in places
        ]


def profile(pipe: Any, run: Callable[[], Any], policy_at: PolicyAt, recipe: Recipe = DENSE) -> Profile:
    """Run the pipeline dense, and try every density on the calls of three steps.

    Args:
        run: calls the pipeline.
        policy_at: the method at a density.

    Raises:
        Mistake: if no call could be looked at.
    """
    found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    with accelerated(pipe, recipe), torch.no_grad():
        for patch in patches_of(pipe):
            for one in patch.installed:
                inner: Any = one.uninstall
                fn = one.attention
                see = partial(_see, found.setdefault(one.site.full_name, {}), policy_at)
                inner.routed.slot.fn = partial(_watched, fn, see)
        run()
    known = {name: errors for name, errors in found.items() if errors}
    if not known:
        raise Mistake(
            f"{type(pipe).__name__}: no attention call could be compared with dense: tuning needs calls "
            "without a mask, on a grid of video tokens, in a schedule whose steps are counted"
        )
    steps = sorted({step for errors in known.values() for step in errors})
    whole_rows = [name for name, errors in known.items() if sorted(errors) == steps]
    squares, seconds = (
        torch.stack([torch.stack([known[name][step][part] for step in steps]) for name in whole_rows])
        for part in (0, 1)
    )
    return Profile(tuple(whole_rows), tuple(steps), squares, seconds)


def _watched(fn: Any, see: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, dense: Any) -> Tensor:
    out = fn(q, k, v, mask, dense)
    forward = fn.hook.forward
    if forward is not None and mask is None and forward.context.grid is not None:
        see(fn._context(forward, q.shape[1]), q, k, v, out)
    return out


def _see(
    seen: dict[int, tuple[Tensor, Tensor]],
    policy_at: PolicyAt,
    context: Context,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
) -> None:
    step, n_steps = context.step, context.n_steps
    if context.branch or step is None or n_steps is None or step in seen:
        return
    if step not in {min(whole(share, n_steps), n_steps - 1) for share in AT_PROGRESS}:
        return
    q, k, v, out = (x.transpose(1, 2) for x in (q, k, v, out))
    norm = out.double().square().sum()
    rows, watches = [], [Stopwatch() for _ in (*DENSITIES, 1.0)]
    for density, watch in zip(DENSITIES, watches, strict=False):
        policy = policy_at(density)
        with watch.running(q.device):
            sparse = block_sparse_attention(q, k, v, policy.layout(q, k, context.grid, context))
        rows.append((sparse.double() - out.double()).square().sum(dim=(0, 2, 3)) / norm)
    with watches[-1].running(q.device):
        scaled_dot_product_attention(q, k, v)
    seen[step] = torch.stack(rows).cpu(), torch.tensor([watch.seconds for watch in watches]).double()


def allocate(squares: Tensor, mean: float, pays: float = 1.0) -> tuple[float, ...]:
    """The density of each layer that makes the sum of squared errors least at a mean density.

    Equal slopes: every layer takes the density that minimises its error plus one price times its density.

    Args:
        squares: float64 [layers, densities] of `DENSITIES`, from `Profile.by_layer`.
        mean: over the layers, in (0, 1].
        pays: densities between this and 1 are not chosen, as far as the mean allows.
    """
    grid = torch.arange(DENSITIES[0], 1 + FINEST / 2, FINEST, dtype=torch.float64).clamp(max=1.0)
    grid = grid[(grid <= max(pays, mean) + FINEST / 2) | (grid == 1.0)]
    if mean <= DENSITIES[0]:
        return (mean,) * len(squares)
    curves = torch.stack([interpolated(curve, grid) for curve in squares])
    low, high = 0.0, float(curves.max()) / FINEST * 10
    for _ in range(60):
        price = (low + high) / 2
        chosen = grid[(curves + price * grid).argmin(dim=1)]
        low, high = (price, high) if float(chosen.mean()) > mean else (low, price)
    chosen = grid[(curves + high * grid).argmin(dim=1)]
    # What the steps of the grid leave over is spread evenly over all layers.
    left = mean - float(chosen.mean())
    return tuple(min(max(density + left, 0.02), 1.0) for density in chosen.tolist())


def interpolated(curve: Tensor, grid: Tensor) -> Tensor:
    """A layer's squared error at each density of a grid: linear in its logarithm, 0 at density 1."""
    known: Sequence[float] = (*DENSITIES, 1.0)
    end = curve.clamp(min=LEAST_ERROR)
    logs = torch.cat([end, end[-1:] * 1e-3]).log()
    points = torch.tensor(known, dtype=torch.float64)
    right = torch.searchsorted(points, grid, right=True).clamp(1, len(known) - 1)
    share = (grid - points[right - 1]) / (points[right] - points[right - 1])
    values = (logs[right - 1] + share * (logs[right] - logs[right - 1])).exp()
    return torch.where(grid >= 1.0, torch.zeros_like(values), values)
