"""Options that several subcommands share, and what they mean together."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from accel.demo.paths import DEMO_PROMPTS, DEMO_SETTINGS
from accel.mistake import Mistake
from accel.recipe.errors import RecipeError
from accel.recipe.yaml_text import parse_yaml
from accel.run.generate import GenerateSettings

Prompt = Annotated[str | None, typer.Argument(help="What to generate; the demo has one of its own.")]
ModelName = Annotated[str, typer.Option("--model", help="'demo', a pipeline folder, or a hub id.")]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="A shipped recipe or a YAML file; none picks one for the model."),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value of the recipe: key.path=value. Repeatable.")
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", help="LoRA weights: a folder, a .safetensors file or a hub id, =SCALE. Repeatable."
    ),
]
Height = Annotated[int | None, typer.Option(help="Pixels.", min=1)]
Width = Annotated[int | None, typer.Option(help="Pixels.", min=1)]
Frames = Annotated[int | None, typer.Option(help="Video frames.", min=1)]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.", min=1)]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")]
Negative = Annotated[str | None, typer.Option("--negative-prompt", help="What to avoid.")]
Seed = Annotated[int, typer.Option(help="Of the noise; the same for every run that is compared.")]
Device = Annotated[str | None, typer.Option(help="'cuda', 'cpu', ...; none takes the best there is.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]


def settings_for(model: str, prompt: str | None, **chosen: Any) -> GenerateSettings:
    """What to generate: the demo fills what was not chosen; other models leave it to their pipeline.

    Raises:
        ValueError: if a model other than the demo gets no prompt.
    """
    if model == "demo" and prompt is None:
        prompt = DEMO_PROMPTS[0]
    if prompt is None:
        raise Mistake(f'a prompt is needed: accel generate "a cat on a skateboard" --model {model}')
    return GenerateSettings(prompt=prompt, **choices_for(model, **chosen))


def choices_for(model: str, **chosen: Any) -> dict[str, Any]:
    """Settings but for the prompt; of the demo, with its own where none was chosen."""
    if model != "demo":
        return chosen
    defaults = {name: value for name, value in vars(DEMO_SETTINGS).items() if name != "fps"}
    return {**defaults, **{name: value for name, value in chosen.items() if value is not None}}


def frames_per_second(model: str) -> int:
    """At what rate to write a model's video: what it was trained at, as far as that is known."""
    return DEMO_SETTINGS.fps if model == "demo" else 16


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """`key.path=value` strings as a mapping; values are read as YAML."""
    parsed = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {change!r}: expected key.path=value, for example dense_steps=0.2")
        parsed[key.strip()] = parse_yaml(value, f"--set {key}")
    return parsed


def require_writable(option: str, path: Path, endings: Sequence[str]) -> None:
    """Refuse before the minutes of work, not after.

    Raises:
        ValueError: if the file's ending is another one, it is a folder, or its folder is not there or cannot
            be written.
    """
    folder = path.absolute().parent
    if path.suffix not in endings:
        known = f"{', '.join(endings[:-1])} or {endings[-1]}".removeprefix(" or ")
        raise Mistake(f"{option} {path}: a file that is written ends in {known}")
    if path.is_dir():
        raise Mistake(f"{option} {path}: is a folder, not a file")
    if not folder.is_dir():
        raise Mistake(f"{option} {path}: the folder {folder} does not exist")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Mistake(f"{option} {path}: cannot write to {folder}: {error.strerror}") from error


def short_name(model: str) -> str:
    """A file name's stem for a model: the last part of its path or id."""
    return Path(model).name or "video"
