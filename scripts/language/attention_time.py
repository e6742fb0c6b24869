"""Time the choice of blocks and attention to them against dense attention, for one layer of a real shape.

    python -m scripts.language.attention_time --shape smollm2 --tokens 8192 --recipe llm-wanted

Queries, keys and values are noise, which does not affect the cost of a budget of blocks. The three are timed
in turn in one process; the best of each is printed, in wall-clock and in processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from accel import load_recipe
from accel.kernels.attention.operation import block_sparse_attention
from accel.patches.context import Context
from accel.sites.sequence.fixed_blocks import with_dense_queries

SHAPES = {"smollm2": (9, 3, 64), "gemma3": (4, 1, 256), "llama-8b": (32, 8, 128)}  # heads, key heads, dims


def best(call: Callable[[], object], before: tuple[float, float]) -> tuple[float, float]:
    """The lower of `before` and one more call: wall-clock and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return min(before[0], time.perf_counter() - wall), min(before[1], time.process_time() - processor)


@torch.no_grad()
def measure(shape: str, tokens: int, name: str, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds of dense attention, of the choice and of sparse attention; the density, twice."""
    heads, key_heads, dim = SHAPES[shape]
    q, k, v = (torch.randn(1, count, tokens, dim) for count in (heads, key_heads, key_heads))
    recipe = load_recipe(name)

    def choose():  # type: ignore[no-untyped-def]
        layout = recipe.rules[0].policy.layout(q, k, None, Context(layer=0, n_layers=1))
        return with_dense_queries(layout, recipe.schedule.dense_queries)

    layout = choose()
    calls: dict[str, Callable[[], object]] = {
        "dense": lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        "choice": choose,
        "attention": lambda: block_sparse_attention(q, k, v, layout, scale=dim**-0.5),
    }
    times = dict.fromkeys(calls, (float("inf"), float("inf")))
    for _ in range(repeats):
        times = {part: best(call, times[part]) for part, call in calls.items()}
    density = float(layout.density)
    return times | {"density": (density, density)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--recipe", default="llm-wanted")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    times = measure(options.shape, options.tokens, options.recipe, options.repeats)
    for clock, place in (("wall", 0), ("processor", 1)):
        dense, choice, attention = (times[part][place] for part in ("dense", "choice", "attention"))
        print(
            f"{options.recipe}, {options.shape}, {options.tokens:,} tokens, {torch.get_num_threads()} threads"
            f", by the {clock}: density {times['density'][0]:.3f}, dense {dense:.3f} s, of it choice"
            f" {choice / dense:.3f}, attention {attention / dense:.3f},"
            f" both {(choice + attention) / dense:.3f}"
        )


if __name__ == "__main__":
    main()
