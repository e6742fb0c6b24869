"""Generate: run a pipeline once, dense or accelerated, and measure it."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.accelerate import accelerated, patches_of
from accel.apply.patch import Patch
from accel.mistake import Mistake
from accel.patches.models import supported_models
from accel.recipe.recipe import DENSE, Recipe
from accel.sites.stopwatch import Stopwatch


@dataclass(frozen=True)
class GenerateSettings:
    """What to generate. None leaves a choice to the pipeline. Sizes in pixels."""

    prompt: str
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    max_sequence_length: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise Mistake("the prompt is empty")
        if not -(2**63) <= self.seed < 2**63:
            raise Mistake(f"seed must fit into 64 bits, got {self.seed}")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise Mistake(f"guidance_scale must be finite, got {self.guidance_scale}")
        for name in ("height", "width", "num_frames", "num_inference_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Mistake(f"{name} must be at least 1, got {value}")


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
        frames: float [F, H, W, C] in [0, 1], on the CPU, as the pipeline made them.
        latents: the last step's latents, on the CPU; none if the pipeline does not show them.
        seconds: how long it took.
        patch: the recipe's account; its counts go on living after the model is restored.
    """

    frames: Tensor
    latents: Tensor | None
    seconds: Seconds
    patch: Patch


def generate(pipe: Any, settings: GenerateSettings, recipe: Recipe = DENSE) -> Generated:
    """Run the pipeline under a recipe, then restore it.

    A dense run goes through the same seam, so that both are timed alike; its output is bit-identical to the
    untouched pipeline's.
    """
    with accelerated(pipe, recipe):
        (patch,) = patches_of(pipe)
        attention = patch.time_calls()
        total = Stopwatch()
        latents: list[Tensor] = []
        with _timed_forwards(pipe) as transformer, total.running(pipe.device):
            output = _called(pipe, _arguments(pipe, settings, latents))
    frames = torch.as_tensor(output.frames[0])
    seconds = Seconds(total.seconds, transformer.seconds, attention.seconds)
    return Generated(frames, latents[-1] if latents else None, seconds, patch)


def _called(pipe: Any, arguments: dict[str, Any]) -> Any:
    """What the pipeline returns.

    Raises:
        Mistake: if the pipeline's own checks refuse the arguments.
    """
    try:
        return pipe(**arguments)
    except ValueError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if frames[-1].f_globals.get("__name__", "").startswith("diffusers.pipelines."):
            raise Mistake(f"{type(pipe).__name__}: {error}") from error
        raise


def _arguments(pipe: Any, settings: GenerateSettings, latents: list[Tensor]) -> dict[str, Any]:
    """Call arguments the pipeline knows; the latents of the last step end up in `latents`."""
    known = inspect.signature(pipe.__call__).parameters
    wanted = {name: value for name, value in vars(settings).items() if name != "seed" and value is not None}
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise Mistake(f"{type(pipe).__name__} has no {', '.join(unknown)}")

    def keep_latents(pipe: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        latents[:] = [values["latents"].detach().float().cpu()]
        return {}

    if "callback_on_step_end" in known:
        wanted["callback_on_step_end"] = keep_latents
    return {**wanted, "generator": torch.Generator().manual_seed(settings.seed), "output_type": "np"}


@contextmanager
def _timed_forwards(pipe: Any) -> Iterator[Stopwatch]:
    """Time every forward of the pipeline's transformers."""
    stopwatch = Stopwatch()
    device = pipe.device

    def start(module: torch.nn.Module, args: Any) -> None:
        stopwatch.start(device)

    def stop(module: torch.nn.Module, args: Any, output: Any) -> None:
        stopwatch.stop(device)

    models = supported_models(pipe).values()
    handles = [model.register_forward_pre_hook(start) for model in models]
    handles += [model.register_forward_hook(stop) for model in models]
    try:
        yield stopwatch
    finally:
        for handle in handles:
            handle.remove()
