"""The request for a run, checked as far as possible before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from accel.apply.plan import Plan, make_plan
from accel.cli.options import parse_changes
from accel.demo.paths import DEMO_PROMPTS, DEMO_SETTINGS
from accel.load.empty_forward import is_image_model
from accel.load.empty_pipeline import EmptyPipeline, empty_pipeline
from accel.load.errors import require_device
from accel.load.index import PipelineIndex, read_index
from accel.load.lora import Lora, load_loras, locate
from accel.load.modular import is_modular
from accel.load.pipeline import best_device, load_pipeline, require_offload
from accel.load.quantised import require_quantiser
from accel.mistake import Mistake
from accel.patches.models import find_sites
from accel.recipe.choose import default_recipe, default_recipe_name
from accel.recipe.files import load_recipe
from accel.recipe.override import override
from accel.run.arguments import given_inputs, pipeline_class, require_arguments, takes
from accel.run.conditions import read_image
from accel.run.rates import own_rate
from accel.run.settings import GenerateSettings, LoadSettings, from_options
from accel.run.sizes import require_sides
from accel.run.video import read_video


@dataclass(frozen=True)
class Asked:
    """A requested pipeline.

    Args:
        loading: which, and how to load it.
        index: the classes it is made of.
        pipeline: the class to run.
        given: of a modular pipeline, what it starts from: it loads nothing else.
    """

    loading: LoadSettings
    index: PipelineIndex
    pipeline: type
    given: frozenset[str] = frozenset()

    @property
    def transformer(self) -> str:
        """Class name of the first model."""
        return next(iter(self.index.models.values()))

    @property
    def makes_images(self) -> bool:
        return is_image_model(self.transformer)

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the files that its results are written to, the usual one first."""
        return (".png",) if self.makes_images else (".mp4", ".gif")

    @property
    def rate(self) -> float:
        """Frames per second of a video whose settings do not say."""
        config = self.index.config(next(iter(self.index.models)))
        return own_rate(self.pipeline, self.transformer, config)

    def load(self) -> Any:
        """The pipeline, with its LoRA weights."""
        asked = self.loading
        pipe = load_pipeline(
            asked.model,
            asked.device,
            None if asked.dtype is None else getattr(torch, asked.dtype),
            pipeline_class=self.pipeline,
            offload=asked.offload,
            quantize=asked.quantize,
            variant=asked.variant,
            given=self.given,
        )
        load_loras(pipe, [Lora.parse(text) for text in asked.lora])
        return pipe


def loading_of(chosen: dict[str, Any]) -> LoadSettings:
    """How to load, checked against what is installed and what there is.

    Raises:
        Mistake: if an option is wrong, or a device, a backend or a LoRA file does not exist.
    """
    loading = from_options(LoadSettings, chosen)
    device = loading.device or best_device()
    require_device(device)
    require_offload(loading.offload, device)
    if loading.quantize is not None:
        require_quantiser(loading.quantize, device)
    for text in loading.lora:
        locate(Lora.parse(text).source)
    return loading


def asked_of(loading: LoadSettings, settings: GenerateSettings, index: PipelineIndex | None = None) -> Asked:
    """The pipeline that settings ask for.

    Args:
        index: of the model, if it was read before.

    Raises:
        Mistake: if there is no such pipeline, or it cannot take the settings.
    """
    index = index or read_index(loading.model)
    pipeline = pipeline_class(index.class_name, settings)
    asked = Asked(loading, index, pipeline, _starts(pipeline, settings))
    require_sides(asked.transformer, settings)
    require_arguments(pipeline, settings)
    if loading.offload == "sequential" and is_modular(pipeline):
        raise Mistake(f"{pipeline.__name__} offloads by model or group, not by layer: --offload model")
    if asked.makes_images and settings.fps is not None:
        raise Mistake(f"{asked.pipeline.__name__} makes images, which have no --fps")
    for image in settings.image:
        read_image(image)
    if settings.video is not None:
        read_video(settings.video)
    return asked


def _starts(pipeline: type, settings: GenerateSettings) -> frozenset[str]:
    """Which blocks of a modular pipeline run depends on the images and videos it is given, and a prompt."""
    if not is_modular(pipeline):
        return frozenset()
    conditions = {"prompt", "image", "last_image", "video", "reference_images"}
    return given_inputs(pipeline, settings) & conditions


def settings_of(model: str, chosen: dict[str, Any]) -> GenerateSettings:
    """What to generate; the demo fills what was not chosen and its pipeline takes.

    Raises:
        Mistake: if a value is wrong, or a model other than the demo gets no prompt.
    """
    if model != "demo":
        if chosen.get("prompt") is None:
            raise Mistake(f'a prompt is needed: accel generate "a cat on a skateboard" --model {model}')
        return from_options(GenerateSettings, chosen)
    prompt = {"prompt": DEMO_PROMPTS[0]}
    return from_options(GenerateSettings, {**prompt, **demo_defaults(chosen), **chosen})


def demo_defaults(chosen: dict[str, Any]) -> dict[str, Any]:
    """The demo's own settings that its pipeline takes when it is given such things to start from."""
    named = from_options(
        GenerateSettings, {"prompt": "?", **{k: v for k, v in chosen.items() if k != "prompt"}}
    )
    pipeline = pipeline_class(read_index("demo").class_name, named)
    return {name: value for name, value in DEMO_SETTINGS.items() if takes(pipeline, name)}


def planned(model: str, recipe: str | None, changes: list[str] | None) -> tuple[str, Plan, EmptyPipeline]:
    """The recipe's name, and the recipe, changed as asked, planned on the model without its weights.

    Raises:
        Mistake: if there is no such recipe, a change is wrong, or it fits nothing in the model.
    """
    wanted = parse_changes(changes)
    chosen = None if recipe is None else override(load_recipe(recipe), wanted)
    pipeline = empty_pipeline(model)
    if chosen is None:
        chosen = override(default_recipe(pipeline.models), wanted)
    try:
        sites = [site for name, part in pipeline.models.items() for site in find_sites(part, name)]
    except ValueError as error:
        raise Mistake(f"{model}: {error}") from error
    return recipe or default_recipe_name(pipeline.models), make_plan(sites, chosen), pipeline
