"""Kernel launches and bytes moved by the choice of blocks, by recipe, counted without a GPU.

q and k are on PyTorch's meta device and say that they are on a GPU, so the code does what it does on a GPU;
launches of Triton kernels and operators of PyTorch are counted and not run. Bytes are those of all tensors
that go in or come out, once per launch. What follows from sizes alone is computed once and not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

from accel.kernels.attention import tail_triton, triton
from accel.kernels.attention.triton import block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies import compose
from accel.policies.parts.ramp import at_progress
from accel.policies.policy import Policy
from accel.recipe.files import load_recipe, shipped_recipes
from scripts.page import insert, markdown

GRID = TokenGrid(21, 45, 80)  # 75,600 tokens
HEADS, DIM = 40, 128
DENSE_TFLOPS = 693.0  # cuDNN's rate on an H200
TERABYTES = 4.8  # of its memory, a second
NOTHING = ("empty", "empty_like", "new_empty", "_unsafe_view")
HEAD = (
    "recipes", "choosing: Triton kernels", "PyTorch operators", "GB", "ms at 4.8 TB/s", "of dense",
    "attention: Triton kernels", "PyTorch operators",
)  # fmt: skip
PICKS = ("index_select", "gather", "index")


@dataclass
class Counts:
    """What ran on the meta device.

    Args:
        kernels: launches, by the name of a Triton kernel.
        operators: calls of PyTorch's operators that make or change a tensor, by name.
        moved: bytes, by the same names.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)

    def add(self, what: Counter[str], name: str, *tensors: Any) -> None:
        found = [x for x in tree_leaves(tensors) if isinstance(x, Tensor) and x.is_meta]
        if found:
            what[name] += 1
            self.moved[name] += sum(x.numel() * x.itemsize for x in found)


class _Operators(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        views = any(one.alias_info and not one.alias_info.is_write for one in function._schema.returns)
        name = function._schema.name.removeprefix("aten::")
        if name in PICKS:
            # Of what it picks from, it reads as much as comes out.
            args = (out, *args[1:])
        if not views and name not in NOTHING:
            self.counts.add(self.counts.operators, name, args, kwargs, out)
        return out


@contextmanager
def counted() -> Iterator[Counts]:
    """Count what is done with tensors on the meta device within, where they pass for tensors on a GPU."""
    counts = Counts()

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        counts.add(counts.kernels, kernel.fn.__name__, arguments)

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(Tensor, "is_cuda", property(lambda tensor: tensor.is_meta)),
        mock.patch.object(torch.cuda, "device_of", lambda tensor: nullcontext()),
        mock.patch.object(triton, "target", lambda: ("cuda", "90")),
        mock.patch.object(tail_triton, "target", lambda: ("cuda", "90")),
        # The meta device has no generators.
        mock.patch.object(compose, "noise_like", lambda mass, context: torch.zeros_like(mass)),
        _Operators(counts),
    ):
        yield counts


def of_call(
    policy: Policy, grid: TokenGrid = GRID, heads: int = HEADS, dim: int = DIM
) -> tuple[Counts, Counts]:
    """What a bfloat16 call launches half-way: the policy, from q and k to lists, and Triton's attention."""
    policy = at_progress(policy, 0.5)
    q, k, v = torch.empty(3, 1, heads, grid.tokens, dim, dtype=torch.bfloat16, device="meta")
    with counted():
        policy.layout(q, k, grid, Context(grid=grid))
    with counted() as choosing:
        layout = policy.layout(q, k, grid, Context(grid=grid))
    with counted() as attending:
        block_sparse_attention(q, k, v, layout)
    return choosing, attending


def rows(names: Iterable[str]) -> list[tuple[str, ...]]:
    """A row of the table for all recipes whose counts are the same."""
    dense = 4 * GRID.tokens**2 * HEADS * DIM / DENSE_TFLOPS / 1e9  # ms
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        choosing, attending = of_call(load_recipe(name).rules[0].policy)
        ms = choosing.moved.total() / TERABYTES / 1e9
        launches = [part.total() for one in (choosing, attending) for part in (one.kernels, one.operators)]
        row = (
            *map(str, launches[:2]),
            f"{choosing.moved.total() / 1e9:.2f}",
            f"{ms:.2f}",
            f"{100 * ms / dense:.2f} %",
        )
        found.setdefault((*row, *map(str, launches[2:])), []).append(name)
    return [(", ".join(alike), *row) for row, alike in found.items()]


def main(
    page: Annotated[
        Path | None, typer.Argument(help="Page to write the table to, between its markers.")
    ] = None,
) -> None:
    """Print the table for all recipes of videos and images, or write it to a page."""
    text = markdown(HEAD, rows(name for name in shipped_recipes() if not name.startswith("llm-")))
    print(text) if page is None else insert(page, "launches", text)


if __name__ == "__main__":
    typer.run(main)
