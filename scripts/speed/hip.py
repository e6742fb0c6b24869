"""How long HiP's searches take to find a fixed number of keys, from thousands of tokens to a million.

Beside them the pooled means of blocks, scored all against all, as most other methods do: quadratic in the
length, with a small factor. One head of random tokens, which do not affect the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from accel.load.pipeline import best_device
from accel.machine.versions import device_name, versions
from accel.patches.context import Context
from accel.policies.compose import Composed
from accel.policies.hip import Hip
from accel.policies.parts.scores import Pooled
from accel.policies.parts.selectors import TopK
from accel.policies.policy import Policy
from accel.policies.search.stages import Stages
from accel.policies.search.tree import Tree
from scripts.page import insert, markdown
from scripts.row_file import write_table
from scripts.speed.timing import milliseconds

BLOCK = (64, 64)
LENGTHS = [8192 * 2**power for power in range(8)]
METHODS: dict[str, Callable[[int, int], Policy]] = {
    "hip, tree search": lambda budget, tokens: Hip(budget=budget, search=Tree(), block_size=BLOCK),
    "hip, stages": lambda budget, tokens: Hip(budget=budget, search=Stages(chunks=(16, 4)), block_size=BLOCK),
    "pooled means, all against all": lambda budget, tokens: Composed(
        score=Pooled(), select=TopK(min(1.0, budget / tokens)), block_size=BLOCK
    ),
}


def main(
    out: Annotated[Path, typer.Argument(help="JSON to write; a table in Markdown is written next to it.")],
    length: Annotated[list[int] | None, typer.Option(help="Tokens; repeatable.")] = None,
    budget: Annotated[int, typer.Option(help="Keys to find for each block of queries.", min=64)] = 2048,
    limit: Annotated[
        float, typer.Option(help="A method slower than this many seconds is not run at greater lengths.")
    ] = 90,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Time every method at every length."""
    device = torch.device(best_device())
    rows = []
    for name, make in METHODS.items():
        for tokens in sorted(length or LENGTHS):
            q, k = (torch.randn(1, 1, tokens, 64, device=device) for _ in range(2))
            seconds, density = measure(make(budget, tokens), q, k, repeats, limit)
            rows.append({"method": name, "tokens": tokens, "seconds": seconds, "density": density})
            print(f"{name:<32}{tokens:>9} tokens {seconds:>9.3f} s  density {density:.4f}", flush=True)
            if seconds > limit:
                break
    machine = {"device": device_name(device), "threads": torch.get_num_threads(), **versions()}
    machine["repeats"] = repeats
    write_table(out, rows, {"machine": machine, "budget": budget})
    insert(out.with_suffix(".md"), "speed.hip", table(rows, machine, budget))


@torch.no_grad()
def measure(policy: Policy, q: Tensor, k: Tensor, repeats: int, limit: float) -> tuple[float, float]:
    """(median seconds to choose the blocks, their density); a slow method is run only once."""
    choose = partial(policy.layout, q, k, None, Context())
    times: list[float] = []
    while not times or (len(times) < repeats and sum(times) < limit):
        times.append(milliseconds(choose, q.device) / 1000)
    return statistics.median(times), float(choose().density)


def table(rows: list[dict], machine: dict, budget: int) -> str:
    """The measurements, and what doubling the length multiplies the time by."""
    lines = [
        f"`python -m scripts.speed.hip docs/benchmarks/hip-length.json`: {budget} keys for each block of 64 "
        "queries, in addition to sink and window; one head of 64, float32, "
        f"{machine['device']}. Seconds to choose the blocks (median of {machine['repeats']}), and in "
        "brackets how many times as long as at half the length: 2 is linear growth, 4 quadratic.",
        "",
    ]
    times = {(row["method"], row["tokens"]): row["seconds"] for row in rows}
    cells = [
        [
            f"{tokens:,}",
            *(_cell(times.get((name, tokens)), times.get((name, tokens // 2))) for name in METHODS),
        ]
        for tokens in sorted({row["tokens"] for row in rows})
    ]
    return "\n".join([*lines, markdown(["tokens", *METHODS], cells)]) + "\n"


def _cell(seconds: float | None, half: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.3g}" + (f" (x {seconds / half:.1f})" if half else "")


if __name__ == "__main__":
    typer.run(main)
