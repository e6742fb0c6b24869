"""SiteAttention: the one path of an attention call: time it, try it sparse, count it, or go dense."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from accel.kernels.attention.tiers import cannot_run
from accel.patches.observers import GRADIENTS, is_differentiated
from accel.patches.site import Site
from accel.recipe.recipe import Recipe, Rule
from accel.sites.call_record import CallRecord, Part
from accel.sites.faults import Doing, Fault, Faults, errors_pass
from accel.sites.spent import Spent
from accel.sites.stopwatch import Stopwatch


class SiteAttention:
    """What all of this package's attention functions have in common, whatever their models' calls look like.

    Subclasses take a call, say why it stays dense or how it is planned and attended to, and leave the rest to
    `sparse` and `dense`.

    Args:
        site: where.
        rule: of the recipe, which the site follows: its method chooses the blocks.
        recipe: what stays dense, and everything else that rules have in common.
        warned: the faults that have been warned about; the sites of one patch share the set.

    Attributes:
        record: the counts of the calls.
        faults: what went wrong, and whether the site is still tried.
        stopwatch: times the calls, if set.
        spent: what the first dense and sparse calls took.
        precision: what the recipe lets queries and keys be rounded to.
    """

    def __init__(self, site: Site, rule: Rule, recipe: Recipe, warned: set[str] | None = None) -> None:
        self.policy = rule.policy
        self.schedule = recipe.schedule_of(rule)
        self.precision = rule.precision
        self.record = CallRecord()
        self.faults = Faults(site.full_name, set() if warned is None else warned)
        self.stopwatch: Stopwatch | None = None
        self.spent = Spent()

    def timed(self, device: torch.device) -> AbstractContextManager[None]:
        """The stopwatch, running; nothing where the calls are not timed."""
        return self.stopwatch.running(device) if self.stopwatch else nullcontext()

    def sparse(
        self,
        q: Tensor,
        plan: Callable[[], Any],
        attend: Callable[[Any], Tensor],
        dense: Callable[[], Tensor],
        step: Part = None,
        alone: bool = True,
    ) -> Tensor:
        """The sparse output, or the dense one if planning finds a reason for it or anything fails.

        Args:
            q: the call's queries.
            plan: chooses the blocks: something with a `density`, or the reason why the call runs dense.
            attend: the attention over what was planned.
            dense: the model's own attention.
            step: what the call is part of, for the counts.
            alone: no other process waits for this one's planning. Where one does, errors are raised: going on
                dense would leave it waiting.

        Raises:
            Exception: whatever `dense` raises. If dense attention cannot run the call either, the call is to
                blame, and nothing is counted against the site.
        """
        doing: Doing = "planning"
        fault = out = None
        began = self.spent.start(q, "sparse")
        try:
            planned = plan()
            if not isinstance(planned, str):
                doing = "the kernel"
                out = attend(planned)
        except Exception as error:
            if not alone or errors_pass():
                raise
            fault = Fault.of(doing, error)
        if fault is not None:
            planned = None  # Frees what the failed call held before dense attention needs the memory.
            result = dense()
            self.record.count_dense(self.faults.remember(fault), step)
            return result
        if out is None:
            return self.dense(q, planned, dense, step)
        self.faults.failures = 0
        captured = getattr(planned, "captured", None)
        self.spent.stop(q, "sparse" if captured is None else "capture", began)
        if captured is None:
            self.record.count_sparse(planned.density, step)
        else:
            self.record.count_dense(captured, step)
        return out

    def dense(self, q: Tensor, reason: str, dense: Callable[[], Tensor], step: Part = None) -> Tensor:
        """The model's own attention, counted under a reason."""
        self.record.count_dense(reason, step)
        began = self.spent.start(q, "dense")
        out = dense()
        self.spent.stop(q, "dense", began)
        return out

    def never_sparse(self, *tensors: Tensor) -> str | None:
        """Why no call like this one runs sparse, whatever else it asks for."""
        if self.policy.method == "dense":
            return "dense by recipe"
        return GRADIENTS if is_differentiated(*tensors) else None

    @staticmethod
    def no_kernel(q: Tensor) -> str | None:
        """Why no tier can run a call with these queries: no tier can run what the PyTorch tier cannot."""
        reason = cannot_run("torch", q.device, q.dtype, q.shape[-1])
        return None if reason is None else f"the torch tier {reason}"
