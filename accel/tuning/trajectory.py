"""Trajectory: a dense run's course, and how far a recipe would deviate from it at each step.

Errors of a whole generation are chaotic: a small one early may grow or vanish. So candidates are ranked by
the forced error: every step starts from the dense run's latents, and what is compared is the guided velocity,
which is what the scheduler is given. It sees every layer and guidance, and no chaos.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from accel.comparison.quality import relative_error
from accel.policies.parts.ramp import Ramp

Run = Callable[[], Tensor]
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Trajectory:
    """One dense run.

    Args:
        velocities: what the scheduler was given at each step, guidance included.
        latents: the last step's.
    """

    velocities: tuple[Tensor, ...]
    latents: Tensor


def record(pipe: Any, run: Run) -> Trajectory:
    """The course of a run.

    Args:
        pipe: a diffusers pipeline with a scheduler that is asked once a step.
        run: calls the pipeline, and returns its last latents.
    """
    velocities: list[Tensor] = []

    def keep(velocity: Tensor) -> Tensor:
        velocities.append(velocity.detach().cpu().clone())
        return velocity

    with stepping_through(pipe.scheduler, keep):
        latents = run()
    return Trajectory(tuple(velocities), latents.detach().cpu())


def forced_errors(pipe: Any, run: Run, dense: Trajectory) -> tuple[float, ...]:
    """The relative error of the guided velocity at each step of a dense run's course.

    Raises:
        ValueError: if the run has another number of steps.
    """
    errors: list[float] = []

    def force(velocity: Tensor) -> Tensor:
        if len(errors) == len(dense.velocities):
            raise ValueError(f"the dense run has {len(errors)} steps, this one more")
        right = dense.velocities[len(errors)]
        errors.append(relative_error(velocity.detach().cpu(), right))
        return right.to(velocity.device)

    with stepping_through(pipe.scheduler, force):
        run()
    if len(errors) != len(dense.velocities):
        raise ValueError(f"the dense run has {len(dense.velocities)} steps, this one {len(errors)}")
    return tuple(errors)


def step_budget(courses: Sequence[Trajectory], density: float, dense_steps: int = 0) -> Ramp:
    """A density for every step, in proportion to how far the velocity moves in it (PASA, arXiv 2604.12219).

    Args:
        courses: dense runs of several prompts, alike in their number of steps.
        density: the mean over the steps that are not dense, as far as none of them exceeds 1.
        dense_steps: how many of the first are.

    Raises:
        ValueError: if fewer than two steps would be left, or none before them.
    """
    steps = len(courses[0].velocities)
    first = max(dense_steps, 1)
    if steps - first < 2 or any(len(course.velocities) != steps for course in courses):
        raise ValueError(f"a budget by step needs two steps after the first {first}, the same of all courses")
    moved = [
        statistics.fmean(
            (course.velocities[step] - course.velocities[step - 1]).abs().float().mean().item()
            for course in courses
        )
        for step in range(first, steps)
    ]
    mean = statistics.fmean(moved)
    shares = [min(max(density * distance / mean, LEAST_SHARE), 1.0) for distance in moved]
    return Ramp(tuple((step / steps, share) for step, share in enumerate(shares, first)))


def stepping_through(scheduler: Any, change: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Let `change` see, and replace, the velocity that a scheduler is given at each step."""
    step = scheduler.step

    def changed(model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        return step(change(model_output), *args, **kwargs)

    return replaced(scheduler, "step", changed)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An object's own attribute is another one for the time of a block."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
