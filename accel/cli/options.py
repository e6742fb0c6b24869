"""Options that several subcommands share, made from the settings where these have one."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from accel.mistake import Mistake
from accel.run.settings import Settings, option_name

RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="A shipped recipe or a YAML file; by default the model's own."),
]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Change a value of the recipe: key.path=value. Repeatable.")
]
Preview = Annotated[
    bool, typer.Option(help="Show the latents as they come, in a terminal with 16 million colours.")
]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON to standard output.")]


def only(kind: type[Settings], *names: str) -> dict[str, Any]:
    """Some fields of settings, for `with_options_of`."""
    return {name: kind.model_fields[name] for name in names}


def with_options_of(
    **kinds: type[Settings] | dict[str, Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of some settings.

    Args:
        kinds: the command's parameters that take what was chosen, a dict of the fields that were named, and
            the settings whose fields these are, or some of them. A field `prompt` becomes an argument.
    """
    fields = {place: kind if isinstance(kind, dict) else kind.model_fields for place, kind in kinds.items()}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        made = [_parameter(name, field) for group in fields.values() for name, field in group.items()]
        only = inspect.Parameter.KEYWORD_ONLY
        rest = [parameter.replace(kind=only) for parameter in own if parameter.name not in kinds]

        @functools.wraps(command)
        def call(**values: Any) -> None:
            chosen = {place: {name: values.pop(name) for name in group} for place, group in fields.items()}
            command(**{place: _named(group) for place, group in chosen.items()}, **values)

        call.__signature__ = inspect.Signature([*made, *rest])  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in (*made, *rest)}
        del call.__wrapped__
        return call

    return decorate


def _named(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != []}


def _parameter(name: str, field: Any) -> inspect.Parameter:
    """A command's parameter for one field; what the field refuses, the settings say."""
    text = field.description
    kind: Any = Annotated[str | None, typer.Argument(help=text)]
    if name != "prompt":
        kind = Annotated[_option_type(field.annotation), typer.Option(option_name(name), help=text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _option_type(annotation: Any) -> Any:
    """int, float or str, optional, or a list of str: what a terminal can give."""
    words = str(annotation)
    if "tuple" in words:
        return list[str] | None
    parts = {annotation, *get_args(annotation)} | {
        args for part in get_args(annotation) for args in get_args(part)
    }
    return next((kind | None for kind in (int, float) if kind in parts), str | None)


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """`key.path=value` strings as a mapping; values are read as YAML."""
    from accel.recipe.errors import RecipeError
    from accel.recipe.yaml_text import parse_yaml

    parsed = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {change!r}: expected key.path=value, for example dense_steps=0.2")
        parsed[key.strip()] = parse_yaml(value, f"--set {key}")
    return parsed


def require_writable(option: str, path: Path, endings: Sequence[str]) -> None:
    """Refuse a path before the minutes of work, not after.

    Raises:
        Mistake: if the file's ending is another one, it is a folder, or its folder does not exist or cannot
            be written.
    """
    folder = path.absolute().parent
    if path.suffix not in endings:
        known = f"{', '.join(endings[:-1])} or {endings[-1]}".removeprefix(" or ")
        raise Mistake(f"{option} {path}: a file that is written ends in {known}")
    try:
        if path.is_dir():
            raise Mistake(f"{option} {path}: is a folder, not a file")
        if not folder.is_dir():
            raise Mistake(f"{option} {path}: the folder {folder} does not exist")
        tempfile.TemporaryFile(dir=folder).close()
        path.exists()
    except (OSError, ValueError) as error:
        if isinstance(error, Mistake):
            raise
        why = getattr(error, "strerror", None) or error
        raise Mistake(f"{option} {path}: cannot write to {folder}: {why}") from error


def require_folder(option: str, folder: Path) -> None:
    """Make a folder to write to, and its parents.

    Raises:
        Mistake: if that cannot be done, or nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        raise Mistake(
            f"{option} {folder}: cannot write there: {getattr(error, 'strerror', None) or error}"
        ) from error


def require_one_way(dense: bool, only_dense: bool, recipe: str | None, changes: list[str] | None) -> None:
    """Refuse options that contradict each other about what to run.

    Raises:
        Mistake: says which.
    """
    if dense and only_dense:
        raise Mistake("--dense also runs dense, --only-dense runs only dense: give one of them")
    if only_dense and (recipe is not None or changes):
        raise Mistake("--only-dense runs without a recipe: give it, or --recipe and --set")
