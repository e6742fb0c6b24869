"""The settings of a run, declared once: options, prompt files and Python callers all make these.

Imports no PyTorch: `accel generate --help` and a shell's completion read the options from here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from accel.mistake import Mistake
from accel.noun import Checked

# Nobody generates more; a slip of the keyboard is refused before it fills the memory.
MOST_PIXELS, MOST_FRAMES, MOST_STEPS = 16_384, 100_000, 10_000


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class Settings(Checked):
    """Frozen values that refuse unknown names and wrong types."""

    model_config = ConfigDict(strict=True)


class GenerateSettings(Settings):
    """What to generate. None leaves a choice to the pipeline."""

    prompt: str = Field(description="What to generate; the demo has its own.")
    negative_prompt: str | None = Field(None, description="What to avoid.")
    image: Names = Field(
        (), description="An image to start from: first frame, then last frame; or references. Repeatable."
    )
    video: str | None = Field(None, description="A video to start from.")
    strength: float | None = Field(
        None, gt=0, le=1, description="How much to change the image or video, above 0 to 1."
    )
    height: Pixels | None = Field(None, description="Pixels.")
    width: Pixels | None = Field(None, description="Pixels.")
    num_frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)] | None = Field(None, description="Video frames.")
    num_inference_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = Field(
        None, description="Denoising steps."
    )
    guidance_scale: float | None = Field(
        None, allow_inf_nan=False, description="Classifier-free guidance scale."
    )
    max_sequence_length: Annotated[int, Field(ge=1, le=2**20)] | None = Field(
        None, description="Maximum number of prompt tokens to read."
    )
    fps: float | None = Field(
        None, ge=0.01, le=1000, description="Frames per second of the video; by default the model's own rate."
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = Field(
        0, description="Seed of the noise, the same for all compared runs."
    )

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _is_text(cls, text: str | None) -> str | None:
        if text is not None and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("holds bytes that are not UTF-8 text")
        return text

    @field_validator("prompt")
    @classmethod
    def _is_not_empty(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the prompt is empty")
        return text


class LoadSettings(Settings):
    """Which pipeline to load, and how."""

    model: str = Field("demo", description="'demo', a pipeline folder, or a hub id.")
    device: str | None = Field(
        None, min_length=1, description="'cuda', 'cpu', ...; by default the best available."
    )
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None,
        description="Type of the weights: bfloat16, float16 or float32 (the default on a CPU).",
    )
    offload: Literal["model", "group", "sequential"] | None = Field(
        None, description="Keep weights in main memory until they are needed, by: model, group or sequential."
    )
    quantize: Literal["bnb-4bit", "bnb-8bit", "torchao-int8", "quanto-int8"] | None = Field(
        None, description="Quantise the transformers: bnb-4bit, bnb-8bit, torchao-int8 or quanto-int8."
    )
    variant: str | None = Field(
        None, min_length=1, description="Variant of the weight files, for example fp16."
    )
    lora: Names = Field(
        (),
        description="LoRA weights: a folder, a .safetensors file or a hub id, optionally =SCALE. Repeatable.",
    )


OPTION_NAMES = {"num_frames": "--frames", "num_inference_steps": "--steps", "guidance_scale": "--guidance"}

Kind = TypeVar("Kind", bound=Settings)


def option_name(field: str) -> str:
    """The command line's name of a setting."""
    return OPTION_NAMES.get(field, f"--{field.replace('_', '-')}")


def from_options(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """Settings from a command's options.

    Raises:
        Mistake: a line for every value that is wrong, under its option's name.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise Mistake("\n".join(dict.fromkeys(map(_line, error.errors())))) from None


def _line(finding: Any) -> str:
    name = str(finding["loc"][0])
    said = finding["msg"].removeprefix("Value error, ")
    where = "prompt" if name == "prompt" else option_name(name)
    value = repr(finding["input"])
    return f"{where}: {said[:1].lower()}{said[1:]}, got {value if len(value) <= 60 else value[:57] + '...'}"
