"""Prompts: a JSON Lines file of videos to make, checked whole before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints, ValidationError

from accel.files import text_of
from accel.mistake import Mistake
from accel.recipe.errors import explain
from accel.run.settings import GenerateSettings

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]

SLUG_LETTERS = 40


class PromptError(Mistake):
    """Mistakes in a prompts file, one per line, each with the file, the line and the key."""


class PromptLine(GenerateSettings):
    """One line: the settings of a run, and a name. All but the prompt has a default: the command line's.

    Args:
        name: of the file, without an ending: letters, digits and _ . -; None makes one of the prompt.
    """

    name: Name | None = None


@dataclass(frozen=True)
class Job:
    """One video to make.

    Args:
        name: of its file, without an ending.
        line: in the prompts file, from 1.
        settings: what to generate.
    """

    name: str
    line: int
    settings: GenerateSettings


def read_prompts(path: str | Path, defaults: Mapping[str, Any]) -> list[Job]:
    """The videos a file asks for, in its order. Empty lines are skipped.

    Args:
        path: UTF-8, one JSON object a line.
        defaults: `GenerateSettings` without the prompt, used for what a line does not set.

    Raises:
        PromptError: all mistakes there are, with file, line, key and the nearest valid name.
    """
    path = Path(path)
    jobs: list[Job] = []
    mistakes: list[str] = []
    for number, text in enumerate(text_of(path, str(path), PromptError).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            jobs.append(_job(text, f"{path}:{number}", number, defaults))
        except ValueError as error:
            mistakes.append(str(error))
    mistakes += _repeated(jobs, path)
    if mistakes:
        raise PromptError("\n".join(mistakes))
    if not jobs:
        raise PromptError(f'{path}: holds no prompts; a line looks like {{"prompt": "a cat", "seed": 1}}')
    return jobs


def _job(text: str, source: str, number: int, defaults: Mapping[str, Any]) -> Job:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise PromptError(f"{source}: is not JSON: {what}{where}") from None
    if not isinstance(data, dict):
        raise PromptError(f'{source}: expected an object like {{"prompt": "a cat"}}, got {text.strip()[:40]}')
    try:
        line = PromptLine.model_validate(data)
    except ValidationError as error:
        raise PromptError(str(explain(error, source, PromptLine.model_json_schema()))) from None
    own = line.model_dump(exclude_unset=True, exclude={"name"})
    settings = GenerateSettings(**{**defaults, **_beside(source, own)})
    return Job(line.name or name_of(settings), number, settings)


def _beside(source: str, own: dict[str, Any]) -> dict[str, Any]:
    """The settings of a line, its files found from the folder of the prompts file."""
    folder = Path(source.rpartition(":")[0]).parent
    files = {name: own[name] for name in ("image", "video") if own.get(name)}
    found = {
        name: str(folder / value) if isinstance(value, str) else tuple(str(folder / each) for each in value)
        for name, value in files.items()
    }
    return {**{name: value for name, value in own.items() if value is not None}, **found}


def name_of(settings: GenerateSettings) -> str:
    """A file name that says what is in it: the prompt's first words, and a hash of all settings."""
    words = re.sub(r"[^a-z0-9]+", "-", settings.prompt.lower()).strip("-")[:SLUG_LETTERS].strip("-")
    digest = hashlib.sha256(json.dumps(vars(settings), sort_keys=True).encode()).hexdigest()
    return f"{words or 'video'}-{digest[:8]}"


def _repeated(jobs: list[Job], path: Path) -> list[str]:
    """Names that two lines share; they differ by more than upper and lower case."""
    first: dict[str, Job] = {}
    mistakes = []
    for job in jobs:
        earlier = first.setdefault(job.name.lower(), job)
        if earlier is not job:
            mistakes.append(
                f"{path}:{job.line}: name: {job.name!r} is taken by line {earlier.line}; "
                "give one of them another name or seed"
            )
    return mistakes
