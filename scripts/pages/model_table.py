"""Print the table of supported diffusers models, from the families and the facts their tests assert.

    python -m scripts.pages.model_table

Every row is a class of `FAMILIES`; what it says of order, padding and graphs is what tests/patches check
on a tiny random instance of that class, so the table cannot say more than the tests do.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

sys.path.extend(
    str(Path(__file__).resolve().parents[2] / "tests" / "support" / part)
    for part in ("", "models", "pipelines")
)

from accel.patches.diffusers.declined import DECLINED
from accel.patches.diffusers.family import FAMILIES
from real_pipelines import PIPELINES
from scripts.page import markdown
from tiny_families import CASES, Case

HEADER = ("model class", "tokens of one sequence", "padded text", "compiled blocks", "tested through")
BESIDES = {
    "HeliosTransformer3DModel": ("history", "text"),
    "HunyuanVideoFramepackTransformer3DModel": ("history", "text"),
    "Cosmos3OmniTransformer": ("text", "sound"),
    "MiniMaxH3Transformer3DModel": ("text, references, sound", ""),
    "AnyFlowFARTransformer3DModel": ("coarse chunks", ""),
    "WanAnimate2Transformer3DModel": ("", "references"),
}
PADDING = {
    "last": "exact, by a length for each sample",
    "anywhere": "exact, moved to the end of the sequence",
    "behind": "exact, by a length for each sample",
    "dropped": "exact, the model drops it",
    None: "not hidden by the model; masked calls stay dense",
}


def main() -> None:
    """Print the supported classes as a markdown table, then how many are declined."""
    print(markdown(HEADER, map(row, FAMILIES)))
    where = "patches/diffusers/declined.py"
    print(f"\n{len(DECLINED)} further classes are not supported, each with its reason in {where}.")


def row(name: str) -> tuple[str, ...]:
    """The cells of one class."""
    cases = [case for case in CASES.values() if case.class_name == name]
    padding = getattr(import_module(FAMILIES[name]), "TEXT_PADDING", None)
    joint = "text" in order(cases)
    text = PADDING[padding] if joint else "no text in the sequence"
    return f"`{name}`", order(cases), text, graphs(cases[0]), pipelines(name)


def pipelines(name: str) -> str:
    """The real pipelines that drive it in the tests, each once."""
    driving = (case.pipeline for case in PIPELINES.values() if CASES[case.family].class_name == name)
    names = (pipeline.rpartition(".")[2].removesuffix("Step") for pipeline in driving)
    return ", ".join(dict.fromkeys(f"`{name}`" for name in names))


def order(cases: list[Case]) -> str:
    """The order of the parts of the sequence, in words."""
    grids = [case.grid((2, 8, 8)) for case in cases]
    lead = any(grid.lead_tokens for grid in grids)
    before, after = BESIDES.get(cases[0].class_name, ("text", "text"))
    text = any(grid.text_tokens or (grid.runs and grid.tail_tokens and after) for grid in grids)
    parts = [
        before if lead or (text and cases[0].text_first) else "",
        "image" if cases[0].image else "video",
        after if text and not cases[0].text_first else "",
    ]
    return ", ".join(part for part in parts if part)


def graphs(case: Case) -> str:
    """How the blocks compile, in words."""
    if not case.whole:
        return "cut at attention"
    return "one graph" if case.graphs == 1 else f"{case.graphs} graphs, as the stock model"


if __name__ == "__main__":
    main()
