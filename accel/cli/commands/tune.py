"""accel tune: the fastest recipe that meets a target on the user's model, size, steps and machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from accel.cli import options
from accel.demo.paths import TUNING_PROMPTS
from accel.files import text_of
from accel.mistake import Mistake
from accel.run.settings import GenerateSettings, LoadSettings

if TYPE_CHECKING:
    from accel.tuning.target import Target

SLACK = 0.1


SETTINGS = (
    "height",
    "width",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "seed",
)


@options.with_options_of(
    chosen=options.only(GenerateSettings, *SETTINGS), loading=options.only(LoadSettings, "device")
)
def tune(
    chosen: dict[str, Any],
    loading: dict[str, Any],
    model: Annotated[str, typer.Argument(help="'demo', a pipeline folder, or a hub id.")],
    target: Annotated[
        str,
        typer.Option(
            help="latent_error<0.15, ssim>0.95 or speedup>1.5; with --text perplexity<1.02 or retrieval>0.95."
        ),
    ],
    prompts: Annotated[
        Path | None, typer.Option(help="A text file, one prompt per line; the demo has its own.")
    ] = None,
    kept_aside: Annotated[
        int | None,
        typer.Option(help="How many of the last prompts to keep aside; by default half."),
    ] = None,
    block: Annotated[
        list[str] | None, typer.Option(help="A block size to try, such as 128x64. Repeatable.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the recipe, the page and what was measured.")
    ] = Path("out/tune"),
    text: Annotated[
        list[Path] | None,
        typer.Option(help="For language models: a file with a text like yours. Repeatable; at least two."),
    ] = None,
) -> None:
    """Find the fastest recipe that meets a target of quality or speed on your own model.

    Each prompt's seed is the seed plus its number. With the same folder, an interrupted run continues.
    """
    from accel.cli import asked as checks
    from accel.load.modular import is_modular
    from accel.tuning.target import Target, aside_of

    wanted = Target.parse(target)
    if text:
        _tune_language(model, loading.get("device"), text, wanted, kept_aside, output)
        return
    if wanted.metric in ("perplexity", "retrieval"):
        raise Mistake(f"target {wanted}: is for language models; add --text FILE")
    # The demo's sequences are short: large blocks would leave little to choose.
    usual = ("64x64", "32x32") if model == "demo" else ("128x64", "64x64")
    blocks = tuple(block_size(text) for text in block or usual)
    texts = prompts_of(model, prompts)
    load = checks.loading_of({"model": model, **loading})
    settings = checks.settings_of(load.model, {"prompt": texts[0], **chosen})
    asked = checks.asked_of(load, settings)
    if asked.makes_images:
        raise Mistake(f"tune is for videos; {asked.pipeline.__name__} makes images")
    if is_modular(asked.pipeline):
        raise Mistake(f"tune needs every step's latents, which {asked.pipeline.__name__} does not show")

    from accel.cli.terminal import complain, say
    from accel.tuning.candidates import candidates
    from accel.tuning.search import tune as find
    from accel.tuning.write import held_out, write_page, write_recipe, write_tried

    # Refused before weights are read.
    aside_of(len(texts), "prompts", kept_aside)
    candidates(blocks, settings.num_inference_steps)
    options.require_folder("--output", output)
    if repeated := len(texts) - len(set(texts)):
        complain(f"{repeated} of {len(texts)} prompts repeat others: the same prompt with another seed")
    pipe = asked.load()
    pipe.set_progress_bar_config(disable=True)
    with ended_in_words(wanted, output), progress_bar() as progress:
        found = find(
            pipe,
            texts,
            wanted,
            settings=settings,
            kept_aside=kept_aside,
            block_sizes=blocks,
            folder=output,
            progress=progress,
        )
    recipe, page = (
        write_recipe(found, output / "tuned.yaml"),
        write_page(found, output / "tuned.html", settings.fps or asked.rate),
    )
    write_tried(found, output)
    say(f"reached {found.reached}")
    say(f"held out: {held_out(found)}")
    if not found.profile.pays:
        say("no density makes a call faster than a dense one on this machine at this size")
    _say_if_slower(found.reached.speedup)
    say(f"wrote {recipe} and {page}")


def _tune_language(
    model: str, device: str | None, files: list[Path], target: Target, kept_aside: int | None, output: Path
) -> None:
    from accel.cli.terminal import say
    from accel.load.language_model import load_language_model
    from accel.tuning.language.search import recipe_file, texts_aside, tune_language

    texts = [text_of(file, f"--text {file}") for file in files]
    texts_aside(texts, target, kept_aside)
    options.require_folder("--output", output)
    language = load_language_model(model, device)
    with ended_in_words(target, output), progress_bar() as progress:
        found = tune_language(
            *language, texts, target, kept_aside=kept_aside, folder=output, progress=progress
        )
    # Before anything is said: output that nobody reads any more does not cost the search.
    written = recipe_file(found, model, [str(file) for file in files], output / "tuned.yaml")
    say(f"reached {found.reached}")
    if found.held_out is not None:
        met = "" if target.met_by(found.held_out.value(target), SLACK) else "; the target is missed there"
        say(f"kept aside: {found.held_out}{met}")
    _say_if_slower(found.reached.speedup)
    say(f"wrote {written}")


def _say_if_slower(speedup: float) -> None:
    from accel.cli.terminal import say

    if speedup < 1:
        say("slower than dense on this machine: the target is met, but nothing is gained here")


@contextmanager
def ended_in_words(target: Target, output: Path) -> Iterator[None]:
    """A search that is interrupted, or finds nothing, ends in a sentence.

    Raises:
        Mistake: that says how to continue, or which recipe came closest to the target.
    """
    from accel.tuning.point import Unreachable
    from accel.tuning.write import write_best

    try:
        yield
    except KeyboardInterrupt:
        raise Mistake(f"interrupted; the same command continues from {output}") from None
    except Unreachable as refused:
        output.mkdir(parents=True, exist_ok=True)
        best = write_best(refused.best, target, output / "best.yaml")
        raise Mistake(f"{refused}; its recipe is in {best}") from None


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar that names the current work; without a terminal, one line for each piece."""
    from tqdm import tqdm

    from accel.cli.terminal import complain
    from accel.plain_text import plain

    if not sys.stderr.isatty():
        yield lambda text, share: complain(f"{share:4.0%} {text}")
        return
    with tqdm(total=1.0, bar_format="{percentage:3.0f}% |{bar:20}| {desc}") as bar:

        def show(text: str, share: float) -> None:
            bar.set_description_str(plain(text), refresh=False)
            bar.update(share - bar.n)
            bar.refresh()

        yield show


def prompts_of(model: str, file: Path | None) -> list[str]:
    """The prompts to tune on.

    Raises:
        Mistake: if there are no prompts, or they are not plain text.
    """
    if file is None:
        if model != "demo":
            raise Mistake("--prompts: a file of your own prompts, one per line, is needed to tune for them")
        return list(TUNING_PROMPTS)
    lines = text_of(file, f"--prompts {file}").splitlines()
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise Mistake(f"--prompts {file}: holds no prompt")
    if any(line.startswith("{") and '"prompt"' in line for line in texts):
        raise Mistake(f"--prompts {file}: holds JSON; tune takes plain text, one prompt per line")
    return texts


def block_size(text: str) -> tuple[int, int]:
    """(query rows, key rows) of "128x64".

    Raises:
        Mistake: if it is not one.
    """
    rows, cross, columns = text.partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise Mistake(f"--block {text!r}: expected query rows x key rows, for example 128x64")
    return int(rows), int(columns)
