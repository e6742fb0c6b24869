"""accel inspect: sites, grid and plan of a model, without its weights."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from accel.apply.plan import Plan, Step
from accel.cli import asked as checks
from accel.cli import options
from accel.cli.terminal import say
from accel.demo.paths import DEMO_SETTINGS
from accel.load.empty_forward import empty_grid, is_image_model
from accel.load.empty_pipeline import EmptyPipeline, latent_shape
from accel.mistake import Mistake
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.recipe.compensate import Compensate
from accel.recipe.schedule import whole
from accel.run.settings import GenerateSettings, from_options
from accel.sites.grid.residual_store import stored_bytes
from accel.sites.grid.value_map import sample_bytes

if TYPE_CHECKING:
    from accel.tuning.profile import Profile

PROBED_BLOCKS = (64, 64)
VIDEO_SIZE = (81, 480, 832)
IMAGE_SIZE = (1, 1024, 1024)
DEMO_SIZE = (DEMO_SETTINGS["num_frames"], DEMO_SETTINGS["height"], DEMO_SETTINGS["width"])


SETTINGS = ("height", "width", "num_frames", "num_inference_steps")


@options.with_options_of(chosen=options.only(GenerateSettings, *SETTINGS))
def inspect(
    chosen: dict[str, Any],
    model: Annotated[str, typer.Argument(help="'demo', a pipeline folder, or a hub id.")],
    recipe: options.RecipeName = None,
    changes: options.Changes = None,
    as_json: options.Json = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Generate once, dense, and show where leaving blocks out hurts.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="What --probe generates; the demo has its own.")] = None,
) -> None:
    """Show where a model's attention is, its token grid at a size, and what a recipe would do."""
    settings = from_options(GenerateSettings, {"prompt": prompt or "of --probe", **chosen})
    name, plan, pipeline = checks.planned(model, recipe, changes)
    usual = usual_size(model, pipeline)
    asked = settings.num_frames, settings.height, settings.width
    size = [one or default for one, default in zip(asked, usual, strict=True)]
    grid = _grid(pipeline, *size)
    densities = [_static_density(step, grid, plan) for step in plan.steps]
    kept = residual_bytes(plan, grid)
    facts = {**_as_dict(model, name, plan, grid, densities), "residual_bytes": kept}
    if not as_json:
        _print(model, name, plan, grid, densities)
        if kept:
            say(f"residual {kept / 2**20:,.1f} MiB at two bytes per number, for two passes of guidance")
    if probe:
        sizes = dict(zip(("num_frames", "height", "width"), size, strict=True))
        if any(map(is_image_model, pipeline.classes)):
            del sizes["num_frames"]
        found = _probed(model, {**chosen, "prompt": prompt, **sizes}, as_json)
        facts["where_it_hurts"] = [asdict(place) for place in found.worst()]
    if as_json:
        print(json.dumps(facts))


def _probed(model: str, chosen: dict[str, Any], as_json: bool) -> Profile:
    """The errors of a model's calls at every density, in one dense generation; shown unless `as_json`."""
    from accel.tuning.candidates import Candidate
    from accel.tuning.heat import lines
    from accel.tuning.profile import profile
    from accel.tuning.subject import last_latents

    loading = checks.loading_of({"model": model})
    settings = checks.settings_of(model, {name: value for name, value in chosen.items() if value is not None})
    pipe = checks.asked_of(loading, settings).load()
    pipe.set_progress_bar_config(disable=True)
    family = Candidate(PROBED_BLOCKS)
    found = profile(
        pipe,
        lambda: last_latents(pipe, settings),
        lambda density: family.recipe(density).rules[0].policy,
    )
    if not as_json:
        for line in lines(found):
            say(line)
    return found


def _grid(pipeline: EmptyPipeline, frames: int, height: int, width: int) -> TokenGrid:
    """The token grid of the first model.

    Raises:
        Mistake: if the size has no token.
    """
    try:
        return empty_grid(next(iter(pipeline.models.values())), latent_shape(pipeline, frames, height, width))
    except ValueError as error:
        raise Mistake(f"{frames} frames of {width} x {height} pixels: {error}") from error


def usual_size(model: str, pipeline: EmptyPipeline) -> tuple[int, int, int]:
    """Default frames, height and width: the demo's own, one image, or a video."""
    if model == "demo":
        return DEMO_SIZE
    return IMAGE_SIZE if any(map(is_image_model, pipeline.classes)) else VIDEO_SIZE


def _static_density(step: Step, grid: TokenGrid, plan: Plan) -> float | None:
    """Density of a site whose blocks follow from the grid alone; None where they depend on the input."""
    if step.rule is None:
        return None
    site = step.site
    if _too_short(step, grid, plan):
        return 1.0
    if not step.rule.policy.static:
        return None
    grid = grid.halved(site.halvings)
    q = torch.zeros(1).expand(1, site.heads, grid.tokens, 1)
    context = replace(Context(grid), layer=site.layer, n_layers=site.n_layers)
    return float(step.rule.policy.layout(q, q, grid, context).density)


def _too_short(step: Step, grid: TokenGrid, plan: Plan) -> str:
    """Why a site's calls run dense whatever its method chooses; empty where they may be sparse."""
    least = 0 if step.rule is None else plan.recipe.schedule_of(step.rule).min_tokens or 0
    short = grid.halved(step.site.halvings).tokens < least
    return f"dense, shorter than {least} tokens" if short else ""


def residual_bytes(plan: Plan, grid: TokenGrid) -> int:
    """Bytes that residuals take at a size, of one sample and two passes of guidance; 0 without any."""
    settings = plan.recipe.compensate
    if not isinstance(settings, Compensate):
        return 0
    branches = 2 if settings.branch_decay else 1
    total = 0
    for step in plan.matched:
        assert step.rule is not None
        dense_layers = whole(plan.recipe.schedule_of(step.rule).dense_layers, step.site.n_layers)
        # A dense layer needs no residual.
        if step.rule.policy.method == "dense" or step.site.layer < dense_layers:
            continue
        projection: Any = getattr(step.site.module, "to_q", None)
        width = getattr(projection, "out_features", 0)
        tokens = grid.halved(step.site.halvings).tokens
        size = tokens, step.site.heads, width // step.site.heads, 2
        total += branches * stored_bytes(settings.store, *size)
        total += sample_bytes(*size) if settings.transport else 0
    return total


def _as_dict(model: str, recipe: str, plan: Plan, grid: TokenGrid, densities: list[Any]) -> dict[str, Any]:
    sites = [
        {
            "site": step.site.full_name,
            "heads": step.site.heads,
            "method": step.rule.policy.method if step.rule else None,
            "density": density,
            "tokens": grid.halved(step.site.halvings).tokens,
        }
        for step, density in zip(plan.steps, densities, strict=True)
    ]
    size = {"frames": grid.frames, "height": grid.height, "width": grid.width, "tokens": grid.tokens}
    return {"model": model, "recipe": recipe, "grid": size, "sites": sites}


def _print(model: str, recipe: str, plan: Plan, grid: TokenGrid, densities: list[Any]) -> None:
    say(f"model    {model}")
    say(f"grid     {grid} (frames x rows x columns), {grid.tokens} tokens")
    say(f"recipe   {recipe}: {plan.recipe.description}")
    schedule = vars(plan.recipe.schedule).items()
    say(f"schedule {', '.join(f'{name} {value}' for name, value in schedule)}")
    say(f"sites    {len(plan.matched)} of {len(plan.steps)} follow the recipe")
    rows = Counter(
        (
            step.site.component,
            grid.halved(step.site.halvings),
            step.rule.policy.method if step.rule else "left alone",
            _too_short(step, grid, plan) or f"density {_density(density)}",
        )
        for step, density in zip(plan.steps, densities, strict=True)
    )
    for (component, own, method, said), count in rows.items():
        where = component if own == grid else f"{component} on {own}"
        say(f"         {count} in {where}: {method}, {said}")
    say(f"         named {plan.steps[0].site.full_name} ... {plan.steps[-1].site.full_name}")


def _density(density: float | None) -> str:
    return "depends on the input" if density is None else f"{density:.3f}"
