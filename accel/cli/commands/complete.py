"""accel complete: continue a prompt with an accelerated language model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from accel.accelerate import plan_for
from accel.apply.plan import require_for_text
from accel.apply.summary import summarize
from accel.cli import options
from accel.cli.terminal import print_table, say, write
from accel.demo.needle import needle_prompt
from accel.files import text_of
from accel.load.gguf import DOWNLOAD, SMOLLM2, fetch_smollm2, require_reader, smollm2
from accel.load.language_model import load_language_model
from accel.mistake import Mistake
from accel.recipe.choose import LANGUAGE_MODELS
from accel.recipe.files import load_recipe
from accel.recipe.override import override
from accel.recipe.recipe import DENSE, Recipe
from accel.run.complete import Completion, agreement, has_chat
from accel.run.complete import complete as run_once
from accel.run.settings import LoadSettings

DEMO_TOKENS = 8192


@options.with_options_of(loading=options.only(LoadSettings, "device"))
def complete(
    loading: dict[str, Any],
    prompt: Annotated[str | None, typer.Argument(help="The text to continue; the demo has its own.")] = None,
    model: Annotated[
        str, typer.Option(help="'demo-llm', 'smollm2', a .gguf file, a folder, or a hub id.")
    ] = "demo-llm",
    prompt_file: Annotated[Path | None, typer.Option(help="A UTF-8 text to continue.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens to generate.", min=1)] = 16,
    recipe: options.RecipeName = None,
    changes: options.Changes = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Also run dense, and say how much faster it was and what changed.")
    ] = False,
    only_dense: Annotated[bool, typer.Option("--only-dense", help="Run dense only.")] = False,
    warm_up: Annotated[
        bool, typer.Option(help="Run each way once before timing it, to show what a second call takes.")
    ] = True,
    chat: Annotated[
        bool | None,
        typer.Option(help="Put the prompt into the model's chat template; by default if it has one."),
    ] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help=f"Download 'smollm2' without asking ({DOWNLOAD}).")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Continue a prompt with a language model, accelerated by a recipe, and say what it took."""
    options.require_one_way(dense, only_dense, recipe, changes)
    text, expected = _prompt(model, prompt, prompt_file), None
    if text == "":
        raise Mistake("the prompt is empty")
    wanted = options.parse_changes(changes)
    if not only_dense:
        require_for_text(override(load_recipe(recipe or LANGUAGE_MODELS), wanted))
    if model == SMOLLM2:
        _fetch_if_missing(fetch)
    elif fetch:
        raise Mistake(f"--fetch is for --model {SMOLLM2}; {model!r} is not downloaded by it")
    loaded = load_language_model(model, loading.get("device"))
    if text is None:
        text, expected = needle_prompt(loaded.tokenizer, DEMO_TOKENS)
    recipes: dict[str, Recipe] = {"dense": DENSE} if dense or only_dense else {}
    if not only_dense:
        recipes["accelerated"] = plan_for(loaded.model, recipe, **wanted).recipe
    in_chat = has_chat(loaded.tokenizer) if chat is None else chat
    runs = {}
    for name, chosen in recipes.items():
        if warm_up:
            run_once(*loaded, text, chosen, max_new_tokens=2, chat=in_chat)
        show = None if as_json else Stream(f"{name}: ")
        runs[name] = run_once(*loaded, text, chosen, max_new_tokens, chat=in_chat, show=show)
        if not as_json:
            say()
    if as_json:
        print(json.dumps({**runs_as_dict(runs), "expected": expected}))
    else:
        _print(runs, expected)


def _fetch_if_missing(agreed: bool) -> None:
    """Download SmolLM2 if it is not here and that was agreed to; loading says what is missing otherwise."""
    require_reader(SMOLLM2)
    if smollm2() is not None:
        return
    if agreed or (sys.stdin.isatty() and typer.confirm(f"Download {DOWNLOAD}?", err=True)):
        fetch_smollm2()


class Stream:
    """Writes text as it comes, after a word that says whose it is."""

    def __init__(self, before: str) -> None:
        self.before = before

    def __call__(self, text: str) -> None:
        write(self.before + text)
        self.before = ""


def _prompt(model: str, prompt: str | None, prompt_file: Path | None) -> str | None:
    """What to continue; None for the demo's own question, whose answer is known."""
    if prompt is not None and prompt_file is not None:
        raise Mistake("a prompt and --prompt-file exclude each other")
    if prompt_file is not None:
        return text_of(prompt_file, f"--prompt-file {prompt_file}")
    # Loading 'demo' says what it is.
    if prompt is None and model not in ("demo-llm", "demo"):
        raise Mistake(f"a prompt is needed: accel complete --model {model} --prompt-file story.txt")
    return prompt


def _print(runs: Mapping[str, Completion], expected: str | None) -> None:
    if expected is not None:
        say(f"the right answer begins with: {expected}")
    rates = [run.tokens_per_second for run in runs.values()]
    rows = [
        ("seconds to the first token", *(f"{run.seconds_to_first_token:.3f}" for run in runs.values())),
        ("tokens a second after it", *("-" if rate is None else f"{rate:.1f}" for rate in rates)),
    ]
    print_table(("", *runs), rows, f"{next(iter(runs.values())).prompt_tokens} tokens of prompt")
    if len(runs) == 2:
        facts = comparison(runs["dense"], runs["accelerated"])
        if facts["times_faster"] is None:
            say("nothing ran sparse, so there is no speed to compare")
        else:
            say(f"first token {facts['times_faster']:.2f} times as fast as dense")
        say(f"agreement of the continuations {facts['agreement']:.3f}")
    if "accelerated" in runs:
        for line in summarize([runs["accelerated"].patch]).account:
            say(line)


def comparison(dense: Completion, accelerated: Completion) -> dict[str, float | None]:
    """How much sooner the first token came (None if nothing ran sparse), and the share of equal tokens."""
    ran_sparse = summarize([accelerated.patch]).sparse_calls > 0
    ratio = dense.seconds_to_first_token / accelerated.seconds_to_first_token
    return {
        "times_faster": ratio if ran_sparse else None,
        "agreement": agreement(dense, accelerated),
    }


def runs_as_dict(runs: Mapping[str, Completion]) -> dict[str, Any]:
    """The runs as plain data."""
    data: dict[str, Any] = {name: _as_dict(run) for name, run in runs.items()}
    if len(runs) == 2:
        data |= comparison(runs["dense"], runs["accelerated"])
    if "accelerated" in runs:
        data["summary"] = summarize([runs["accelerated"].patch]).to_dict()
    return data


def _as_dict(run: Completion) -> dict[str, Any]:
    return {
        "text": run.text,
        "tokens": list(run.tokens),
        "prompt_tokens": run.prompt_tokens,
        "seconds_to_first_token": run.seconds_to_first_token,
        "tokens_per_second": run.tokens_per_second,
    }
