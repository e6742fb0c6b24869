"""The report of the runs of a comparison."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from accel.apply.patch import Patch
from accel.apply.summary import Summary, summarize
from accel.comparison.curve import curve_of
from accel.comparison.pays import AttentionTime
from accel.comparison.report import Report, Run
from accel.comparison.runs import Compared, density_map
from accel.machine.versions import device_name, versions
from accel.recipe.files import recipe_data, recipe_text
from accel.recipe.recipe import Recipe
from accel.run.generate import Generated
from accel.run.settings import GenerateSettings


def report_of(
    pipe: Any, model: str, settings: GenerateSettings, recipe_name: str, recipe: Recipe, changed: bool,
    compared: Compared, command: Sequence[str], files: dict[str, Path],
) -> Report:  # fmt: skip
    """Everything a page shows.

    Args:
        changed: whether the recipe was changed from the one of its name.
        command: the words of the command line that does the same.
        files: of the dense and the accelerated result, where they were written.
    """
    patch = compared.accelerated.patch
    account = summarize([patch])
    return Report(
        title=f"{model}: dense and accelerated",
        prompt=settings.prompt,
        model=f"{type(pipe).__name__}, {model}",
        recipe_name=f"{recipe_name}, changed" if changed else recipe_name,
        recipe_text=shown_recipe(recipe_name, recipe, changed),
        dense=_run("dense", compared.dense, files.get("dense")),
        accelerated=_run("accelerated", compared.accelerated, files.get("accelerated")),
        comparisons=compared.comparisons,
        density_by_layer_and_step=density_map(patch),
        layer_names=tuple(one.site.full_name for one in patch.installed) if density_map(patch) else (),
        layer_work=tuple(one.site.work for one in patch.installed) if density_map(patch) else (),
        dense_reasons=account.dense_reasons,
        sparse_calls=account.sparse_calls,
        versions=versions(),
        settings=_settings(pipe, settings, compared.dense),
        command=shlex.join(command),
        anchors=compared.anchors,
        worst=compared.worst,
        attention_time=_attention_time(patch, account),
        curve=curve_of(recipe_name),
    )


def _attention_time(patch: Patch, account: Summary) -> AttentionTime | None:
    saving = account.sparse_saving
    if saving is None or account.sparse_density is None:
        return None
    tokens = max(form.shape[1] for one in patch.installed for form in one.attention.spent.of("sparse"))
    return AttentionTime(tokens, account.sparse_density, saving.sparse, saving.dense)


def _run(label: str, run: Generated, video: Path | None) -> Run:
    seconds = run.seconds
    return Run(label, seconds.total, seconds.transformer, seconds.attention, video)


def shown_recipe(name: str, recipe: Recipe, changed: bool) -> str:
    """The YAML of a recipe: its file's, or if it was changed, what a file of it would hold."""
    return yaml.safe_dump(recipe_data(recipe), sort_keys=False) if changed else recipe_text(name)[0]


def _settings(pipe: Any, settings: GenerateSettings, run: Generated) -> dict[str, str]:
    frames, height, width, _ = run.frames.shape
    kind, count = ("image", "") if frames == 1 else ("video", f", {frames} frames")
    chosen = {
        name: value for name, value in vars(settings).items() if value not in (None, ()) and name != "prompt"
    }
    return {
        "device": device_name(getattr(pipe, "_execution_device", pipe.device)),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        kind: f"{width} x {height}{count}",
        **{name.replace("_", " "): str(value) for name, value in chosen.items()},
    }
