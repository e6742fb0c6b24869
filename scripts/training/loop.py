"""The loop that trains every model here: budget, learning rate, optimisers, average, checkpoints."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scripts.training.budget import Budget, Schedule
from scripts.training.checkpoint import average_of, load_checkpoint, save_checkpoint

STEPS_BETWEEN_CHECKS = 20
LARGEST_GRADIENT = 1.0


class Stage(ABC):
    """What is trained: a model, its optimisers at any learning rate, and the loss of a step.

    Attributes:
        average_decay: of the moving average that the model is left with; 0 leaves the last weights.
        facts: what a checkpoint must agree on before this stage continues from it.
    """

    model: nn.Module
    schedule: Schedule
    average_decay: float = 0.0
    facts: dict[str, str]

    @abstractmethod
    def optimizers(self) -> list[torch.optim.Optimizer]: ...

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of step number `step` (from 0) when the fraction `progress` has been spent."""
        return self.schedule.rate(step, progress)

    @abstractmethod
    def loss(self, step: int, progress: float) -> Tensor:
        """The loss of a step; it depends on the step, the progress and `state` alone, for resuming."""

    def state(self) -> dict[str, str]:
        """What a resumed run must know in addition to the step, stored in the checkpoint."""
        return {}

    def resume(self, stored: dict[str, str]) -> None:  # noqa: B027
        """Take back what `state` returned."""


@dataclass(frozen=True)
class Outcome:
    """How far a stage got: steps, seconds of training, and the loss of this run's last step, if any."""

    steps: int
    seconds: float
    loss: float | None


def train(
    stage: Stage,
    budget: Budget,
    checkpoint: Path,
    *,
    seconds_between_checkpoints: float = 60.0,
    on_step: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> Outcome:
    """Train until the budget is spent, from `checkpoint` if it exists; leave the average in the model.

    A run that was stopped and resumed has the same weights, bit for bit, as one that was not, if the budget
    is in steps and the device computes deterministically (a CPU does).

    Raises:
        ValueError: if the checkpoint is of another stage, size or seed.
        FloatingPointError: if the loss is not finite, which is checked every 20 steps.
    """
    average, optimizers = average_of(stage.model, stage.average_decay), stage.optimizers()
    step, seconds, loss = 0, 0.0, None
    if checkpoint.exists():
        facts = load_checkpoint(checkpoint, stage.model, average, optimizers)
        _check(facts, stage.facts, checkpoint)
        stage.resume(facts)
        step, seconds = int(facts["step"]), float(facts["seconds"])
        average.n_averaged.fill_(step + 1)
    start = saved = time.monotonic()
    start -= seconds

    def save() -> None:
        facts = stage.facts | stage.state() | {"step": str(step), "seconds": repr(seconds)}
        save_checkpoint(checkpoint, stage.model, average, optimizers, facts)

    while (progress := budget.progress(step, seconds)) < 1:
        loss = _take_step(stage, optimizers, step, progress)
        average.update_parameters(stage.model)
        if step % STEPS_BETWEEN_CHECKS == 0 and not loss.isfinite():
            raise FloatingPointError(f"the loss of step {step} is {loss.item()}")
        step, seconds = step + 1, time.monotonic() - start
        if time.monotonic() - saved >= seconds_between_checkpoints:
            save()
            saved = time.monotonic()
        on_step(step, loss)
    save()
    stage.model.load_state_dict(average.module.state_dict())
    return Outcome(step, seconds, None if loss is None else loss.item())


def _take_step(stage: Stage, optimizers: list[torch.optim.Optimizer], step: int, progress: float) -> Tensor:
    rate = stage.rate(step, progress)
    loss = stage.loss(step, progress)
    loss.backward()
    nn.utils.clip_grad_norm_(stage.model.parameters(), LARGEST_GRADIENT)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    stage.model.zero_grad(set_to_none=True)
    return loss.detach()


def _check(found: dict[str, str], expected: dict[str, str], checkpoint: Path) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise ValueError(
                f"{checkpoint} was written with {key}={found.get(key)}, this run has {key}={value}"
            )
