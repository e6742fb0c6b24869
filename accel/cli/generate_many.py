"""accel generate --prompts: the videos of a prompts file, by as many processes as accelerate started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from accel.batch.batch import Batch, Outcome, make
from accel.batch.prompts import Job, read_prompts
from accel.batch.share import share_of
from accel.cli import options
from accel.cli.terminal import complain, say
from accel.load.lora import Lora, load_loras
from accel.load.pipeline import best_device, load_pipeline
from accel.mistake import Mistake
from accel.recipe.files import load_recipe
from accel.recipe.override import override
from accel.recipe.recipe import DENSE


def batch_of(
    model: str,
    recipe: str | None,
    changes: list[str] | None,
    loras: list[str] | None,
    folder: Path,
    *,
    only_dense: bool,
) -> Batch:
    """What the command line asks for, checked as far as that goes without the model.

    Raises:
        ValueError: if a recipe, a change or a LoRA is wrong.
    """
    chosen = DENSE if only_dense else load_recipe(recipe) if recipe is not None else None
    parsed = options.parse_changes(changes)
    if chosen is not None:
        override(chosen, parsed)
    for text in loras or ():
        Lora.parse(text)
    return Batch(model, chosen, parsed, tuple(loras or ()), folder, options.frames_per_second(model))


def generate_many(
    prompts: Path, defaults: Mapping[str, Any], batch: Batch, device: str | None, as_json: bool
) -> int:
    """Make this process's share of the missing videos; 0 if none failed, else 1.

    Raises:
        ValueError: if the prompts or the folder are wrong, before anything is loaded, in the first process
            only: it says it for all; or if the model cannot be had.
    """
    state = PartialState(cpu=(device or best_device()) == "cpu")
    with ExitStack() as stack:
        stack.callback(state.destroy_process_group)
        try:
            jobs = read_prompts(prompts, defaults)
            own = stack.enter_context(share_of(jobs, batch, state))
        except (Mistake, OSError):
            if state.is_main_process:
                raise
            return 2
        outcome = _make(own, batch, device or _device_of(state))
        _tell(outcome, jobs, batch, state, as_json)
        return 1 if outcome.failed else 0


def _make(jobs: list[Job], batch: Batch, device: str | None) -> Outcome:
    if not jobs:
        return Outcome()
    pipe = load_pipeline(batch.model, device)
    load_loras(pipe, [Lora.parse(text) for text in batch.loras])
    return make(jobs, batch, pipe, complain)


def _device_of(state: PartialState) -> str | None:
    """This process's own accelerator where there are several; else the best there is."""
    return str(state.device) if state.num_processes > 1 else None


def _tell(outcome: Outcome, jobs: list[Job], batch: Batch, state: PartialState, as_json: bool) -> None:
    of = f"process {state.process_index + 1} of {state.num_processes}: " if state.num_processes > 1 else ""
    if as_json:
        print(json.dumps({"process": state.process_index, **asdict(outcome), "prompts": len(jobs)}))
    else:
        say(f"{of}{len(outcome.made)} videos made, {len(outcome.failed)} failed; {batch.manifest.path}")
