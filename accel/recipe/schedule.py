"""Schedule: which steps, layers and lengths stay dense."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from pydantic import Field

from accel.noun import noun
from accel.patches.context import Context

LEAST_APART = 5
ROUNDING = 1e-9  # 0.2 of 50 steps are 10, whatever binary fractions make of it
FIRST_STEPS, REFRESH = "first steps", "refresh"


@noun
class Schedule:
    """Fractions, never counts: they mean the same for a schedule of 4 steps and one of 50.

    Args:
        dense_steps: share of the schedule, from its start, that runs dense; rounded up to whole steps, so
            that any share above 0 is at least one step.
        dense_every: after the first steps, one dense step in each such share of the schedule, rounded to the
            nearest step: where a residual is captured again (`compensate`). Never the last step, and never
            more than one in `LEAST_APART` steps: what serves fewer does not pay. 0 is none, and so is a
            schedule whose steps nobody counts.
        dense_layers: share of the layers, from the first, that run dense; rounded up.
        min_tokens: shorter sequences run dense. None is 0 for video; for language models it leaves the
            choice to a measurement on the machine (see `crossover`).
        dense_queries: of a language model's prompt, the last tokens whose queries see every key; whole
            blocks of them.
        sparse_decode: whether a language model's single queries against a cache also run sparse.
        by: what the first steps are a share of: the steps, or the noise ("sigma"). A schedule
            that is shifted towards noise spends many steps on little of it: with a shift of 12, the first
            fifth of the noise is gone after two thirds of the steps. Refreshes count steps all the same.
        dense_backend: what dense calls of diffusion models run on: a backend of diffusers' dispatcher, such
            as "_native_cudnn" or "flash", or "auto", the fastest that agrees with the model's own. None
            leaves the model's own.
    """

    dense_steps: float = Field(default=0.0, ge=0, le=1)
    dense_every: float = Field(default=0.0, ge=0, le=1)
    dense_layers: float = Field(default=0.0, ge=0, le=1)
    min_tokens: int | None = Field(default=None, ge=0)
    dense_queries: int = Field(default=0, ge=0)
    sparse_decode: bool = False
    by: Literal["step", "sigma"] = "step"
    dense_backend: str | None = None

    def dense_reason(self, context: Context, tokens: int) -> str | None:
        """Why a call stays dense, or None."""
        if self.min_tokens is not None and tokens < self.min_tokens:
            return f"shorter than {self.min_tokens} tokens"
        if context.layer < whole(self.dense_layers, context.n_layers):
            return "dense layer"
        return self.dense_step(context)

    def dense_step(self, context: Context) -> str | None:
        """Why every layer of a step stays dense, or None."""
        if self._in_first_steps(context):
            return FIRST_STEPS
        return REFRESH if self._refreshes(context) else None

    def precedes_sparse(self, context: Context) -> bool:
        """Whether a dense step is the last one before a sparse one; where nobody counts, each may be."""
        if context.step is None or context.n_steps is None:
            return True
        after = context.step + 1
        return after < context.n_steps and self.dense_step(replace(context, step=after)) is None

    def done(self, context: Context) -> float:
        """The share of the schedule, as this one counts, that is done before a step; 1 after the last."""
        if context.step is None or context.n_steps is None:
            return context.progress
        if self.by == "sigma" and context.noise is not None:
            return 1 - context.noise.level(context.step)
        return context.step / context.n_steps

    def _in_first_steps(self, context: Context) -> bool:
        return self.done(context) < self.dense_steps - ROUNDING

    def _first_steps(self, n_steps: int, context: Context) -> int:
        """How many steps of a schedule are the first ones."""
        if self.by == "step" or context.noise is None:
            return whole(self.dense_steps, n_steps)
        return sum(self._in_first_steps(replace(context, step=step)) for step in range(n_steps))

    def _refreshes(self, context: Context) -> bool:
        if not self.dense_every or context.step is None or context.n_steps is None:
            return False
        since = context.step - self._first_steps(context.n_steps, context)
        every = max(self.dense_every * context.n_steps, LEAST_APART)
        number = round(since / every)
        return number > 0 and since == round(number * every) and context.step < context.n_steps - 1


def whole(share: float, count: int) -> int:
    """A share of `count` things, rounded up; 0.2 of 50 is 10 whatever binary fractions make of it."""
    return math.ceil(share * count - 1e-9)
