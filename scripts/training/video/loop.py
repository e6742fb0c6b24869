"""The loop every training stage runs in: budget, learning rate, optimisers, average, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from scripts.training.video.average import Average
from scripts.training.video.budget import Budget, Schedule
from scripts.training.video.checkpoint import load_checkpoint, save_checkpoint

STEPS_BETWEEN_CHECKS = 20
LARGEST_GRADIENT = 1.0


class Stage(Protocol):
    """What is trained: a model, its optimisers at any learning rate, and the loss of a step.

    `loss` may depend on the step and the progress alone, never on earlier calls: a resumed run relies on it.
    `facts` are what a checkpoint must agree on before this stage goes on from it.
    """

    model: nn.Module
    schedule: Schedule
    average_decay: float
    facts: dict[str, str]

    def optimizers(self) -> list[torch.optim.Optimizer]: ...

    def loss(self, step: int, progress: float) -> Tensor: ...


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
    """Train until the budget is spent, going on from `checkpoint` if there; leave the average in the model.

    A run that stopped and went on has the same weights, bit for bit, as one that did not, when the budget is
    in steps and the device computes deterministically (a CPU does).

    Raises:
        ValueError: if the checkpoint is of another stage, size or seed.
        FloatingPointError: if the loss is not finite; it is looked at every 20 steps.
    """
    average, optimizers = Average(stage.model, stage.average_decay), stage.optimizers()
    step, seconds, loss = 0, 0.0, None
    if checkpoint.exists():
        facts = load_checkpoint(checkpoint, stage.model, average, optimizers)
        _check(facts, stage.facts, checkpoint)
        step, seconds = int(facts["step"]), float(facts["seconds"])
    start = saved = time.monotonic()
    start -= seconds

    def save() -> None:
        facts = stage.facts | {"step": str(step), "seconds": repr(seconds)}
        save_checkpoint(checkpoint, stage.model, average, optimizers, facts)

    while (progress := budget.progress(step, seconds)) < 1:
        loss = _take_step(stage, optimizers, step, progress)
        average.update(step)
        if step % STEPS_BETWEEN_CHECKS == 0 and not loss.isfinite():
            raise FloatingPointError(f"the loss of step {step} is {loss.item()}")
        step, seconds = step + 1, time.monotonic() - start
        if time.monotonic() - saved >= seconds_between_checkpoints:
            save()
            saved = time.monotonic()
        on_step(step, loss)
    save()
    average.write()
    return Outcome(step, seconds, None if loss is None else loss.item())


def _take_step(stage: Stage, optimizers: list[torch.optim.Optimizer], step: int, progress: float) -> Tensor:
    rate = stage.schedule.rate(step, progress)
    loss = stage.loss(step, progress)
    loss.backward()
    nn.utils.clip_grad_norm_(stage.model.parameters(), LARGEST_GRADIENT)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _check(found: dict[str, str], expected: dict[str, str], checkpoint: Path) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise ValueError(
                f"{checkpoint} was written with {key}={found.get(key)}, this run has {key}={value}"
            )
