"""accel bench: what a recipe gains on this machine, by length, on random weights of a real model's shape."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from accel.apply.plan import require_for_text
from accel.cli import options
from accel.cli.length_plot import plot
from accel.cli.terminal import print_table, say
from accel.load.errors import require_device
from accel.load.pipeline import best_device
from accel.machine.versions import device_name, versions
from accel.mistake import Mistake
from accel.recipe.choose import LANGUAGE_MODELS
from accel.recipe.files import load_recipe
from accel.recipe.override import override
from accel.recipe.recipe import Recipe
from accel.run.bench_language import SHAPES, BenchRow, bench_decode, bench_prefill, random_model
from accel.run.settings import LoadSettings

ROOM = 64
MOST_TOKENS = 2**24


@dataclass(frozen=True)
class Kind:
    """What is timed, and the recipe and the density it has where none is named."""

    measure: Callable[[Any, int, Recipe], BenchRow]
    recipe: str
    density: float | None
    always: dict[str, Any]


KINDS = {
    "prefill": Kind(bench_prefill, LANGUAGE_MODELS, 0.2, {}),
    "decode": Kind(bench_decode, "llm-hip", None, {"sparse_decode": True}),
}


@options.with_options_of(loading=options.only(LoadSettings, "device"))
def bench(
    loading: dict[str, Any],
    kind: Annotated[
        str,
        typer.Argument(
            help="'prefill': from a prompt to its first token; 'decode': one token after a cache of a length."
        ),
    ],
    shape: Annotated[
        str, typer.Option(help=f"One of {', '.join(SHAPES)}; the weights are random.")
    ] = "llama-3.1-8b",
    lengths: Annotated[str, typer.Option(help="Tokens, separated by commas.")] = "16384,32768,65536,131072",
    density: Annotated[
        float | None,
        typer.Option(
            help="Of prefill, the share of blocks to keep (0.2): random weights have no heavy blocks.",
            min=0,
            max=1,
        ),
    ] = None,
    recipe: options.RecipeName = None,
    changes: options.Changes = None,
    layers: Annotated[
        int | None, typer.Option(help="Use only this many of the shape's layers, if all do not fit.", min=1)
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="A .csv, .json or .svg (plot) to write. Repeatable."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Time a language model's prefill or decode, dense and accelerated."""
    if kind not in KINDS:
        raise Mistake(f"bench {kind!r}: expected {' or '.join(KINDS)}")
    if kind == "decode" and density is not None:
        raise Mistake("--density is for prefill: decoding keeps a number of keys, --set budget=2048")
    chosen = bench_recipe(kind, recipe, density, changes)
    require_for_text(chosen)
    tokens = parse_lengths(lengths)
    for path in out or []:
        options.require_writable("--out", path, (".csv", ".json", ".svg"))
    device = loading.get("device") or best_device()
    require_device(device)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = random_model(shape, max(tokens) + ROOM, device, dtype, layers)
    rows = []
    for length in tokens:
        rows.append(KINDS[kind].measure(model, length, chosen))
        if not as_json:
            say(str(rows[-1]))
    facts: dict[str, Any] = {"kind": kind, "shape": shape, "layers": model.config.num_hidden_layers}
    facts |= {"recipe": chosen.description, "dtype": str(dtype)}
    facts |= {"device": device_name(torch.device(device)), "versions": versions()}
    try:
        for path in out or []:
            write(path, facts, rows)
    finally:
        if as_json:
            print(json.dumps(as_data(facts, rows)))
        else:
            _print(facts, rows)


def bench_recipe(
    kind: str, name: str | None = None, density: float | None = None, changes: list[str] | None = None
) -> Recipe:
    """The recipe to time: a named one, or the kind's own at a fixed density; never dense for its length."""
    own = KINDS[kind]
    fixed: dict[str, Any] = {"min_tokens": 0}
    if name is None:
        density = own.density if density is None else density
        fixed |= {"least_blocks": 0} if density is not None else {}
    if density is not None:
        fixed["density"] = density
    wanted = {**fixed, **options.parse_changes(changes), **own.always}
    return override(load_recipe(name or own.recipe), wanted)


def parse_lengths(lengths: str) -> list[int]:
    """Numbers separated by commas, as a list.

    Raises:
        Mistake: if one of them is not a number, below 2 or beyond MOST_TOKENS.
    """
    try:
        tokens = [int(length) for length in lengths.split(",")]
    except ValueError as error:
        raise Mistake(f"--lengths {lengths!r}: expected numbers separated by commas") from error
    if min(tokens) < 2:
        raise Mistake(f"--lengths {lengths!r}: a length is at least 2 tokens")
    if max(tokens) > MOST_TOKENS:
        raise Mistake(f"--lengths {lengths!r}: a length is at most {MOST_TOKENS} tokens")
    return tokens


def write(path: Path, facts: dict[str, Any], rows: list[BenchRow]) -> None:
    """The sweep as the file's name says: .csv, .json or .svg."""
    if path.suffix == ".svg":
        text = plot(f"{facts['kind']}, {facts['shape']}, {facts['device']}", rows)
    elif path.suffix == ".json":
        text = json.dumps(as_data(facts, rows), indent=1)
    else:
        text = as_csv(rows)
    path.write_text(text, encoding="utf-8")


def as_data(facts: dict[str, Any], rows: list[BenchRow]) -> dict[str, Any]:
    """The sweep as plain data."""
    ratios = ("times_faster", "attention_times_faster")
    return {
        **facts,
        "rows": [{**asdict(row), **{name: getattr(row, name) for name in ratios}} for row in rows],
    }


def as_csv(rows: list[BenchRow]) -> str:
    """One line per length."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("seconds", "attention_seconds", "peak_bytes", "density")
    sides = ("dense", "accelerated")
    writer.writerow(["tokens", *(f"{side}_{field}" for side in sides for field in fields), "times_faster"])
    for row in rows:
        cells = [getattr(getattr(row, side), field) for side in sides for field in fields]
        writer.writerow([row.tokens, *cells, row.times_faster])
    return text.getvalue()


def _print(facts: dict[str, Any], rows: list[BenchRow]) -> None:
    heads = (
        "tokens", "dense s", "accelerated s", "times faster", "attention times faster", "density", "peak GiB"
    )  # fmt: skip
    cells = [
        (
            row.tokens, f"{row.dense.seconds:.3f}", f"{row.accelerated.seconds:.3f}",
            _ratio(row.times_faster), _ratio(row.attention_times_faster), f"{row.accelerated.density:.3f}",
            " / ".join(_gib(side.peak_bytes) for side in (row.dense, row.accelerated)),
        )
        for row in rows
    ]  # fmt: skip
    print_table(heads, cells, f"{facts['kind']}, {facts['shape']}, {facts['device']}, {facts['dtype']}")


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _gib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**30:.1f}"
