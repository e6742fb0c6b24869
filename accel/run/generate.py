"""Generate: run a pipeline once, dense or accelerated, and measure it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.accelerate import accelerated, patches_of
from accel.apply.patch import Patch
from accel.load.modular import inputs_of, is_modular
from accel.mistake import Mistake
from accel.patches.models import supported_models
from accel.recipe.recipe import DENSE, Recipe
from accel.run.arguments import call_arguments
from accel.run.settings import GenerateSettings
from accel.run.watcher import Timed, Watcher
from accel.sites.stopwatch import Stopwatch, mark

# Whose checks of a call's arguments are a user's mistake; and who logs, with a traceback, what it raises.
CHECKING = ("diffusers.pipelines.", "diffusers.modular_pipelines.", "diffusers.schedulers.")
BLOCKS_LOGGER = "diffusers.modular_pipelines.modular_pipeline"


@dataclass(frozen=True)
class Seconds:
    """Times of one run. Attention is part of the transformer, the transformer part of the total."""

    total: float
    transformer: float
    attention: float


@dataclass(frozen=True)
class Generated:
    """One run.

    Args:
        frames: float [F, H, W, C] in [0, 1], on the CPU, as the pipeline made them; an image is one frame.
        latents: the last step's latents, on the CPU; None if the pipeline does not show them.
        seconds: how long it took.
        patch: the recipe's account; its counts go on living after the model is restored.
    """

    frames: Tensor
    latents: Tensor | None
    seconds: Seconds
    patch: Patch


def generate(
    pipe: Any,
    settings: GenerateSettings,
    recipe: Recipe = DENSE,
    *,
    decode: bool = True,
    watcher: Watcher | None = None,
) -> Generated:
    """Run the pipeline under a recipe, then restore it.

    A dense run takes the same path, so that both are timed alike; its output is bit-identical to the
    untouched pipeline's. Without `decode` there are no frames, and no time includes them.
    A watcher hears of every step; what it does with them is not timed.
    """
    watched = None if watcher is None else Timed(watcher)
    with accelerated(pipe, recipe):
        (patch,) = patches_of(pipe)
        attention = patch.time_calls()
        total = Stopwatch()
        latents: list[Tensor] = []
        with _timed_forwards(pipe) as transformer, total.running(_device_of(pipe)):
            output = _called(pipe, arguments_of(pipe, settings, latents, decode, watched))
    if not latents and isinstance(shown := getattr(output, "latents", None), Tensor):
        latents = [shown.detach().float().cpu()]
    frames = _frames(output) if decode else torch.empty(0, 0, 0, 3)
    looking = 0.0 if watched is None else watched.seconds
    seconds = Seconds(total.seconds - looking, transformer.seconds, attention.seconds)
    return Generated(frames, latents[-1] if latents else None, seconds, patch)


def _frames(output: Any) -> Tensor:
    """The frames of the first video, or the images [F, H, W, C], that a pipeline's output holds."""
    for name in ("frames", "videos"):
        if (videos := getattr(output, name, None)) is not None:
            return torch.as_tensor(videos[0])
    images = getattr(output, "images", None)
    return torch.as_tensor(images if images is not None else output.image)


def _called(pipe: Any, arguments: dict[str, Any]) -> Any:
    """What the pipeline returns.

    Raises:
        Mistake: if the pipeline's own checks refuse the arguments.
    """
    try:
        with _quiet(BLOCKS_LOGGER):
            return pipe(**arguments)
    except ValueError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if frames[-1].f_globals.get("__name__", "").startswith(CHECKING):
            raise Mistake(f"{type(pipe).__name__}: {error}") from error
        raise


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without what a logger says: blocks print the traceback of each error that they also raise."""
    logger = logging.getLogger(name)
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def arguments_of(
    pipe: Any,
    settings: GenerateSettings,
    latents: list[Tensor],
    decode: bool = True,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Call arguments the pipeline knows; the latents of the last step end up in `latents`."""
    known = inputs_of(type(pipe))
    wanted = call_arguments(type(pipe), settings)

    def keep_latents(pipe: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        latents[:] = [values["latents"].detach().float().cpu()]
        if watcher is not None:
            watcher.step(step, latents[0])
        return {}

    if "callback_on_step_end" in known:
        wanted["callback_on_step_end"] = keep_latents
    # Blocks that decode do nothing else; what they make is left where it is not asked for.
    output = {"output_type": "np" if decode or is_modular(type(pipe)) else "latent"}
    return {**wanted, "generator": torch.Generator().manual_seed(settings.seed), **output}


def _device_of(pipe: Any) -> torch.device:
    """Where a pipeline runs, which is not where its weights are while they are offloaded."""
    return getattr(pipe, "_execution_device", pipe.device)


@contextmanager
def _timed_forwards(pipe: Any) -> Iterator[Stopwatch]:
    """Time every forward of the pipeline's transformers."""
    stopwatch, device, began = Stopwatch(), _device_of(pipe), list[Any]()
    models = supported_models(pipe).values()
    handles = [model.register_forward_pre_hook(lambda *_: began.append(mark(device))) for model in models]
    handles += [
        model.register_forward_hook(lambda *_: stopwatch.add(began.pop(), mark(device))) for model in models
    ]
    try:
        yield stopwatch
    finally:
        for handle in handles:
            handle.remove()
