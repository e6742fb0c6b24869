"""What a tail and an order add to a sparse call at density 0.1, and what pooling costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.attention.tail import tail_means
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.load.pipeline import best_device
from scripts.row_file import RowFile
from scripts.speed.kernels import competitors
from scripts.speed.problems import Problem
from scripts.speed.timing import medians

DENSITY = 0.1
BAR = 0.05  # of the sparse call, what a tail may add beyond pooled keys and values


def main(
    out: Annotated[Path, typer.Argument(help="JSON lines to write, or to continue.")],
    shape: Annotated[str, typer.Option(help="B,H,N,D.")] = "1,40,75600,128",
    block: Annotated[str, typer.Option(help="Query rows x key rows.")] = "128x128",
    tier: Annotated[list[str] | None, typer.Option(help="NAME or NAME:HEAD_DIM; repeat.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Time every tier without and with each option, in the same rounds."""
    device, rows = torch.device(best_device()), RowFile(out)
    kind = torch.float32 if device.type == "cpu" else torch.bfloat16
    problem = Problem(shape, DENSITY, block)
    q, k, v = problem.qkv(device, kind)
    plain = problem.layout(q)
    for name in competitors(problem, device, kind, tier, peers=False):
        for option, layout in layouts(plain, q.shape[1]).items():
            calls: dict[str, Callable[[], Any]] = {
                "without": partial(block_sparse_attention, q, k, v, plain, tier=name),
                "with": partial(block_sparse_attention, q, k, v, layout, tier=name),
                "pooling": pooling(k, v, plain),
            }
            rows.add(f"{name} {option}", partial(measure, name, option, problem, calls, device, rounds), 90)


def pooling(k: Tensor, v: Tensor, layout: BlockLayout) -> Callable[[], Any]:
    """The means of a tail, as the device's tiers take them."""
    if not k.is_cuda:
        return partial(tail_means, k, v, layout)
    from accel.kernels.attention.tail_triton import tail_means as on_gpu

    return partial(on_gpu, k, v, layout.block_size[1], layout.kv_lengths, layout.kv_order)


def layouts(plain: BlockLayout, heads: int) -> dict[str, BlockLayout]:
    """A layout for every option, with the same lists."""
    shared = TokenOrder(torch.randperm(plain.kv_len, device=plain.device))
    each = TokenOrder(torch.rand(1, heads, plain.kv_len, device=plain.device).argsort(-1))
    return {
        "tail": replace(plain, tail=True),
        "one order": replace(plain, q_order=shared, kv_order=shared),
        "an order for each head": replace(plain, q_order=each, kv_order=each),
    }


def measure(
    tier: str,
    option: str,
    problem: Problem,
    calls: dict[str, Callable[[], Any]],
    device: torch.device,
    rounds: int | None,
) -> dict[str, Any]:
    """`added` is what the option adds as a share of the call without it, for a tail beyond the pooling."""
    for call in (*calls.values(), *calls.values()):
        call()
    without, with_it, pooling = medians(list(calls.values()), device, rounds)
    beyond = with_it - without - (pooling if option == "tail" else 0)
    return {
        "tier": tier,
        "option": option,
        "shape": problem.shape,
        "block_size": problem.block,
        "density": problem.density,
        "without_ms": round(without, 3),
        "with_ms": round(with_it, 3),
        "pooling_ms": round(pooling, 3),
        "added": round(beyond / without, 4),
    }


if __name__ == "__main__":
    typer.run(main)
