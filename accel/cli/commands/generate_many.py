"""accel generate --prompts: the results of a prompts file, by as many processes as accelerate started."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from accel.batch.batch import Batch, Outcome, make
from accel.batch.prompts import Job, PromptError, read_prompts
from accel.batch.share import share_of
from accel.cli.asked import Asked, asked_of, demo_defaults, planned
from accel.cli.options import parse_changes
from accel.cli.terminal import complain, say
from accel.load.index import read_index
from accel.load.pipeline import best_device
from accel.mistake import Mistake
from accel.recipe.files import load_recipe
from accel.recipe.override import override
from accel.recipe.recipe import DENSE
from accel.run.settings import LoadSettings


@dataclass(frozen=True)
class Many:
    """What is asked for, as the command line says it: `prompts` is the file, `out` the folder."""

    prompts: Path
    chosen: dict[str, Any]
    loading: LoadSettings
    recipe: str | None
    changes: list[str] | None
    out: Path
    only_dense: bool


def generate_many(many: Many, as_json: bool) -> int:
    """Make this process's share of what is missing; 0 if nothing failed, else 1.

    Raises:
        Mistake: if the prompts, the recipe or the folder are wrong, before anything is loaded. Of several
            processes, the first raises it for all.
    """
    state = PartialState(cpu=(many.loading.device or best_device()) == "cpu")
    with ExitStack() as stack:
        stack.callback(state.destroy_process_group)
        try:
            jobs, asked, batch = _checked(many)
            own = stack.enter_context(share_of(jobs, batch, state))
        except (Mistake, OSError):
            if state.is_main_process:
                raise
            return 2
        outcome = _make(own, batch, asked, state)
        _tell(outcome, jobs, batch, state, as_json)
        return 1 if outcome.failed else 0


def _checked(many: Many) -> tuple[list[Job], Asked, Batch]:
    wanted = {} if many.only_dense else parse_changes(many.changes)
    named = DENSE if many.only_dense else None if many.recipe is None else load_recipe(many.recipe)
    if named is not None:
        override(named, wanted)
    model = many.loading.model
    defaults = {**(demo_defaults(many.chosen) if model == "demo" else {}), **many.chosen}
    jobs = read_prompts(many.prompts, defaults)
    asked = _one_pipeline(many.prompts, jobs, many.loading)
    if not many.only_dense:
        planned(model, many.recipe, many.changes)
    batch = Batch(model, named, wanted, many.loading.lora, many.out, asked.rate, asked.endings[0])
    return jobs, asked, batch


def _one_pipeline(prompts: Path, jobs: list[Job], loading: LoadSettings) -> Asked:
    """The pipeline of all lines.

    Raises:
        PromptError: if a line's settings are not for it, or two lines are for different ones.
    """
    index = read_index(loading.model)
    first: Asked | None = None
    mistakes = []
    for job in jobs:
        try:
            asked = asked_of(loading, job.settings, index)
        except Mistake as error:
            mistakes.append(f"{prompts}:{job.line}: {error}")
            continue
        first = first or asked
        if asked.pipeline is not first.pipeline:
            mistakes.append(
                f"{prompts}:{job.line}: is for {asked.pipeline.__name__}, others are for "
                f"{first.pipeline.__name__}; put them into a separate file"
            )
        elif asked.given != first.given:
            mistakes.append(
                f"{prompts}:{job.line}: starts from {' and '.join(sorted(asked.given))}, others from "
                f"{' and '.join(sorted(first.given))}; put them into a separate file"
            )
    if mistakes or first is None:
        raise PromptError("\n".join(mistakes))
    return first


def _make(jobs: list[Job], batch: Batch, asked: Asked, state: PartialState) -> Outcome:
    if not jobs:
        return Outcome()
    device = asked.loading.device or (str(state.device) if state.num_processes > 1 else None)
    own = replace(asked, loading=asked.loading.model_copy(update={"device": device}))
    return make(jobs, batch, own.load(), complain)


def _tell(outcome: Outcome, jobs: list[Job], batch: Batch, state: PartialState, as_json: bool) -> None:
    of = f"process {state.process_index + 1} of {state.num_processes}: " if state.num_processes > 1 else ""
    if as_json:
        print(json.dumps({"process": state.process_index, **asdict(outcome), "prompts": len(jobs)}))
    else:
        kind = "images" if batch.suffix == ".png" else "videos"
        say(f"{of}{len(outcome.made)} {kind} made, {len(outcome.failed)} failed; {batch.manifest.path}")
