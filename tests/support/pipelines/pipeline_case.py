"""PipelineCase: a real pipeline under test, around tiny random transformers of the real classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import diffusers
import torch
from torch import Tensor

from accel.patches.grid import TokenGrid
from tiny_families import CASES, Case
from tiny_inputs import TEXT, noise, text_mask

Size = tuple[int, int, int]
Guidance = Literal["passes", "batched", "distilled", "none"]
STEPS = 2
NEGATIVE = 4
UNIPC = ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True})


def halved(family: Case, size: Size) -> set[TokenGrid]:
    """The grids of a family's sites."""
    return {family.grid(size).halved(times) for times in family.halvings}


def two_texts(size: Size, prompts: int) -> dict[str, Any]:
    """Arguments of a pipeline whose prompts have a second, shorter text; it is hidden in negative ones."""
    return {
        "prompt_embeds_mask": text_mask(prompts),
        "negative_prompt_embeds_mask": text_mask(prompts, valid=4),
        "prompt_embeds_2": noise(prompts, 5, 8),
        "prompt_embeds_mask_2": torch.ones(prompts, 5),
        "negative_prompt_embeds_2": noise(prompts, 5, 8),
        "negative_prompt_embeds_mask_2": torch.zeros(prompts, 5),
    }


@dataclass(frozen=True)
class PipelineCase:
    """A real pipeline under test.

    Args:
        pipeline: its class, of diffusers' top level or with its module.
        family: the case of `CASES` whose transformer it gets.
        guidance: "passes", a forward for each half of classifier-free guidance; "batched", one for both;
            "distilled", guidance is an argument of the model; "none".
        config: changes of the transformer's configuration.
        components: of the pipeline besides transformer and scheduler; all others are none.
        scheduler: its class and configuration.
        call: (size in tokens, prompts) -> further arguments of a call, over those every pipeline gets.
        pixels: of one token.
        frames: (tokens along time) -> frames to ask for; none where a pipeline is not asked by that name.
        prompts: how many at once.
        grids: (size in tokens) -> the grids of its attention calls; by default that of the family's case.
        passes: forwards of one step, where guidance does not say it.
        calls: attention calls of one step, where they are not sites times passes.
        component: what the pipeline calls the model.
        pads: whether its padded text, if changed, must change nothing.
        few_frames: so few that methods for video keep everything.
    """

    pipeline: str
    family: str
    guidance: Guidance = "passes"
    config: Mapping[str, Any] = field(default_factory=dict)
    components: Callable[[], dict[str, Any]] = dict
    scheduler: tuple[str, Mapping[str, Any]] = ("FlowMatchEulerDiscreteScheduler", {})
    call: Callable[[Size, int], dict[str, Any]] = lambda size, prompts: {}
    pixels: int = 16
    frames: Callable[[int], int] | None = lambda frames: 4 * (frames - 1) + 1
    prompts: int = 2
    grids: Callable[[Size], set[TokenGrid]] | None = None
    passes: int | None = None
    calls: int | None = None
    pads: bool = False
    component: str = "transformer"
    few_frames: bool = False

    @property
    def image(self) -> bool:
        return CASES[self.family].image

    @property
    def forwards(self) -> int:
        """Of one step."""
        return self.passes or (2 if self.guidance == "passes" else 1)

    @property
    def batch(self) -> int:
        """Samples of the first forward of a step."""
        return self.prompts * (2 if self.guidance == "batched" else 1)

    @property
    def step_calls(self) -> int:
        """Attention calls of one step."""
        return self.calls or CASES[self.family].sites * self.forwards

    def expected(self, size: Size) -> set[TokenGrid]:
        return self.grids(size) if self.grids else halved(CASES[self.family], size)

    def pipe(self) -> Any:
        module, _, name = self.pipeline.rpartition(".")
        cls = getattr(import_module(module or "diffusers"), name)
        accepted = list(inspect.signature(cls.__init__).parameters.values())[1:]
        parts = {
            given.name: given.default if isinstance(given.default, bool) else None
            for given in accepted
            if given.name != "boundary_ratio"
        }
        scheduler, config = self.scheduler
        parts["scheduler"] = getattr(diffusers, scheduler)(**config)
        parts[self.component] = CASES[self.family].model(**self.config)
        pipe = cls(**{**parts, **self.components()})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def arguments(self, pipe: Any, size: Size) -> dict[str, Any]:
        """Of one generation of that many frames, rows and columns of tokens."""
        frames, height, width = size
        b = self.prompts
        known: dict[str, Any] = {
            "height": height * self.pixels,
            "width": width * self.pixels,
            "num_frames": self.frames(frames) if self.frames else None,
            "num_inference_steps": STEPS,
            "output_type": "latent",
            "prompt_embeds": noise(b, TEXT, 16),
            "negative_prompt_embeds": noise(b + 7, TEXT, 16)[:b],
            "pooled_prompt_embeds": noise(b, 8),
            "negative_pooled_prompt_embeds": noise(b + 7, 8)[:b],
            "prompt_attention_mask": text_mask(b),
            "negative_prompt_attention_mask": text_mask(b, valid=NEGATIVE),
        }
        accepted = inspect.signature(type(pipe).__call__).parameters
        fits = {name: value for name, value in known.items() if name in accepted and value is not None}
        return fits | self.call(size, b)

    def run(self, pipe: Any, size: Size, **changes: Any) -> Tensor:
        """The latents of one generation, always from the same noise."""
        arguments = {**self.arguments(pipe, size), **changes}
        result = pipe(**arguments, generator=torch.Generator().manual_seed(0), return_dict=False)
        latents = result[0] if isinstance(result, tuple) else result
        return torch.stack(list(latents)) if isinstance(latents, list) else latents
