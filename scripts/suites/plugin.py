"""A pytest plugin that accelerates every supported model which another library's tests construct.

A model is accelerated at the end of its constructor, before weights are loaded into it; a pipeline, once it
has its parts. Classes are patched to do so, which only a test process may.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from accel import accelerate_model, restore_model
from accel.accelerate import patches_of
from accel.patches.diffusers.family import FAMILIES
from accel.patches.models import is_language_model, supported_models
from accel.recipe.recipe import Recipe
from accel.sites.call_record import CallRecord
from scripts.row_file import append_line
from scripts.suites.rows import read_rows

# Blocks of 16, so that the few tokens of a tiny model are several blocks.
DENSITIES = {"kept": 1.0, "sparse": 0.3}
# Keys found for a token that a language model decodes: with them all of the short caches are kept, or not.
BUDGETS = {"kept": 48, "sparse": 16}
# The tokens of a text in transformers' tests, which would be one block.
SHORT = 7


@dataclass
class Row:
    """What one test did.

    Args:
        test: its id.
        outcome: passed, failed, skipped; failed where setting up or taking down failed.
        seconds: from setting up to taking down.
        accelerated: models of these classes were accelerated.
        declined: classes that were not accelerated, and why.
        sparse: attention calls that ran sparse.
        dropped: those of them that left blocks out.
        dense: those that did not, by reason.
        error: the last line of the failure.
    """

    test: str
    outcome: str = "passed"
    seconds: float = 0.0
    accelerated: set[str] = field(default_factory=set)
    declined: dict[str, str] = field(default_factory=dict)
    sparse: int = 0
    dropped: int = 0
    dense: dict[str, int] = field(default_factory=dict)
    error: str = ""


def recipe(mode: str, *, language: bool) -> Recipe:
    """Every layer, step and length sparse, at the mode's share of its blocks; single tokens too."""
    policy: dict[str, Any] = {
        "method": "compose",
        "score": {"kind": "pooled"},
        "select": {"kind": "top_k", "density": DENSITIES[mode]},
        "block_size": [16, 16],
    }
    if language:
        policy["decode"] = {"kind": "bounds", "budget": BUDGETS[mode], "sink": 1, "window": 1}
    schedule = {"min_tokens": 0, "sparse_decode": language}
    return Recipe.model_validate({"schedule": schedule, "rules": [{"match": "*", "policy": policy}]})


class Accelerator:
    """Accelerates what tests construct, and writes a row for each test."""

    def __init__(self, mode: str, report: Path | None, seconds: int) -> None:
        self.mode = mode
        self.report = report
        self.seconds = seconds
        self.row = Row("")

    def accelerate(self, model: Any) -> None:
        """Accelerate a model or pipeline, instead of the models inside it."""
        name = type(model).__name__
        try:
            if not supported_models(model):
                return
            accelerate_model(model, recipe(self.mode, language=is_language_model(model)))
        except (TypeError, ValueError) as error:
            self.row.declined[name] = f"{type(error).__name__}: {error}"
        else:
            self.row.accelerated.add(name)

    def count(self) -> None:
        """Count the calls of every site, those of copied models too."""
        count_sparse, count_dense = CallRecord.count_sparse, CallRecord.count_dense

        def sparse(record: CallRecord, density: Tensor, *args: Any) -> None:
            self.row.sparse += 1
            self.row.dropped += bool(density < 1)
            count_sparse(record, density, *args)

        def dense(record: CallRecord, reason: str, *args: Any) -> None:
            self.row.dense[reason] = self.row.dense.get(reason, 0) + 1
            count_dense(record, reason, *args)

        CallRecord.count_sparse, CallRecord.count_dense = sparse, dense  # type: ignore[method-assign]

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the tests that have a row; texts become several blocks, stock too."""
        lengthen(items, config.getoption("--accel-tokens"))
        done = read_rows(self.report) if self.report is not None else {}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
        items[:] = [item for item in items if item.nodeid not in done]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.row = Row(item.nodeid)
        started = time.monotonic()
        try:
            return (yield)
        finally:
            self.row.seconds = round(time.monotonic() - started, 2)
            self._write()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """End a test that takes too long; an error outside of it would end the session."""
        signal.signal(signal.SIGALRM, self._too_late)
        signal.alarm(self.seconds)
        try:
            return (yield)
        finally:
            signal.alarm(0)

    def _too_late(self, *_: Any) -> None:
        signal.alarm(5)  # Once more, should the first be swallowed.
        raise TimeoutError(f"not finished after {self.seconds} s")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.row.outcome = "failed"
            crash = getattr(report.longrepr, "reprcrash", None)
            self.row.error = (crash.message if crash else str(report.longrepr)).strip()[:600]
        elif report.skipped and self.row.outcome == "passed":
            self.row.outcome = "skipped"

    def _write(self) -> None:
        if self.report is not None:
            append_line(self.report, asdict(self.row) | {"accelerated": sorted(self.row.accelerated)})


def lengthen(items: list[pytest.Item], tokens: int) -> None:
    """Have the texts of transformers' tests be of so many tokens where they are of a few."""

    def longer(test: Any) -> None:
        tester = getattr(test, "model_tester", None)
        if getattr(tester, "seq_length", None) == SHORT:
            tester.seq_length = tokens

    for cls in {getattr(item, "cls", None) for item in items}:
        if hasattr(cls, "setUp"):
            cls.setUp = then(cls.setUp, longer)


def watch_diffusers(accelerator: Accelerator) -> None:
    """Have the supported classes accelerate themselves, and pipelines what they hold."""
    import diffusers

    for name in FAMILIES:
        cls = getattr(diffusers, name, None)
        if cls is not None:
            cls.__init__ = then(cls.__init__, accelerator.accelerate)
    base = diffusers.DiffusionPipeline
    base.register_modules = then(base.register_modules, accelerator.accelerate)


def watch_transformers(accelerator: Accelerator) -> None:
    """Have the models accelerate themselves; a model inside another one is given back to it first."""
    from transformers import PreTrainedModel

    def outermost(model: Any) -> None:
        for part in model.modules():
            if part is not model and isinstance(part, PreTrainedModel) and patches_of(part):
                restore_model(part)
        accelerator.accelerate(model)

    PreTrainedModel.post_init = then(PreTrainedModel.post_init, outermost)


def then(method: Any, action: Any) -> Any:
    """The method, and after it `action` with the object."""

    @functools.wraps(method)
    def both(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        action(self)
        return result

    return both


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("accel")
    group.addoption("--accel", choices=["stock", *DENSITIES], default="stock", help="what models run")
    group.addoption("--accel-report", type=Path, help="a file that gets one row of JSON for each test")
    group.addoption("--accel-tokens", type=int, default=50, help="the length of texts in transformers' tests")
    group.addoption("--accel-seconds", type=int, default=60, help="the longest a test may take")


def pytest_configure(config: pytest.Config) -> None:
    mode = config.getoption("--accel")
    accelerator = Accelerator(mode, config.getoption("--accel-report"), config.getoption("--accel-seconds"))
    config.pluginmanager.register(accelerator, "accelerator")
    if mode in DENSITIES:
        accelerator.count()
        watch_diffusers(accelerator)
        watch_transformers(accelerator)
