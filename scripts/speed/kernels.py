"""Block-sparse attention and the machine's best dense attention, side by side in one run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.attention.tiers import TIERS, cannot_run, cannot_take
from accel.kernels.layout.layout import BlockLayout
from accel.load.pipeline import best_device
from accel.machine.versions import device_name, versions
from scripts.row_file import RowFile, read_rows, write_table
from scripts.speed.dense_baseline import dense_attention
from scripts.speed.peers import PEERS, Skipped
from scripts.speed.problems import Problem, error_of
from scripts.speed.targets import problems
from scripts.speed.timing import medians

CPU_SHAPES = ["1,4,5184,64", "1,4,8192,64"]
CPU_BLOCKS = ["128x128", "128x64", "64x64"]
CPU_DENSITIES = [1.0, 0.5, 0.3, 0.25, 0.1]
CPU_TIERS = ["torch"]
CPU_PEERS = ["flex_attention"]
# A larger relative error means a wrong result, which is not timed. Eight-bit kernels round more.
WRONG = {"spargeattn": 0.2}
WRONG_OTHERWISE = 0.02
DENSE_PEERS = ("dense_flash_attention_2",)

Row = dict[str, Any]
Attention = Callable[[], Tensor]


def main(
    out: Annotated[
        Path,
        typer.Argument(help="JSON to write, of all rows and the machine; or .jsonl for rows alone."),
    ],
    shape: Annotated[
        list[str] | None, typer.Option(help="B,H,N,D or B,H/Hkv,N,D, and causal behind them.")
    ] = None,
    density: Annotated[list[float] | None, typer.Option(help="Of random layouts.")] = None,
    block: Annotated[list[str] | None, typer.Option(help="Query rows x key rows.")] = None,
    ragged: Annotated[bool, typer.Option(help="Lists of unequal length too.")] = False,
    tier: Annotated[
        list[str] | None, typer.Option(help="NAME, or NAME:HEAD_DIM for heads of that many only.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Others' kernels too; on a CPU, FlexAttention.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="By default it depends on the length of the calls.")
    ] = None,
) -> None:
    """Time every tier that can run here; on a GPU, unless shapes are named, on those with targets.

    A row is printed and written as soon as it is measured; rows in OUT's .jsonl are not repeated.
    """
    device = torch.device(best_device())
    kind = getattr(torch, dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    rows = RowFile(out.with_suffix(".jsonl"))
    for problem in asked(shape, density, block, ragged, device):
        for name, prepare in competitors(problem, device, kind, tier, peers).items():
            row = partial(measure, name, prepare, problem, device, kind, rounds)
            rows.add(f"{problem} {name}", row, limit=150 if name in PEERS else 60)
    if out == rows.path:
        return
    machine = {"device": device_name(device), "threads": torch.get_num_threads(), **versions()}
    write_table(out, read_rows(rows.path)[0], {"machine": machine})


def asked(
    shapes: list[str] | None,
    densities: list[float] | None,
    blocks: list[str] | None,
    ragged: bool,
    device: torch.device,
) -> list[Problem]:
    """The problems asked for; on a GPU, if none are, those of the targets."""
    if shapes is None and densities is None and blocks is None and device.type != "cpu":
        return problems()
    targets = {problem.shape: None for problem in problems()}
    return [
        Problem(text, share, size, uneven)
        for text in shapes or (CPU_SHAPES if device.type == "cpu" else targets)
        for share in densities or CPU_DENSITIES
        for size in blocks or CPU_BLOCKS
        for uneven in ((False, True) if ragged else (False,))
    ]


@lru_cache(maxsize=1)
def baseline(
    shape: str, device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor], tuple[str, Attention]]:
    """q, k and v of a shape, and dense attention over them, warmed up. Those of the last shape are kept."""
    tensors = Problem(shape, 1.0, "128x128").qkv(device, dtype)
    name, dense = dense_attention(*tensors, shape.endswith("causal"))
    dense()
    return tensors, (name, dense)


@lru_cache(maxsize=1)
def layout_of(problem: Problem, device: torch.device, dtype: torch.dtype) -> BlockLayout:
    """The random layout of a problem, the same for all competitors."""
    return problem.layout(baseline(problem.shape, device, dtype)[0][0])


def competitors(
    problem: Problem, device: torch.device, dtype: torch.dtype, wanted: list[str] | None, peers: bool
) -> dict[str, Callable[..., Attention]]:
    """The competitors by name: functions of q, k, v and the layout that return the call to time."""
    dim = int(problem.shape.split(",")[3])
    names = wanted or (CPU_TIERS if device.type == "cpu" else [name for name in TIERS if on_gpu_only(name)])
    tiers = [name.partition(":")[0] for name in names if name.partition(":")[2] in ("", str(dim))]
    taking_part: dict[str, Callable[..., Attention]] = {
        name: partial(_tier_call, name) for name in tiers if cannot_run(name, device, dtype, dim) is None
    }
    if not peers:
        return taking_part
    return taking_part | (PEERS if device.type == "cuda" else {name: PEERS[name] for name in CPU_PEERS})


def on_gpu_only(tier: str) -> bool:
    """Whether a tier is a kernel; the others also run on a GPU, but are not timed there."""
    return cannot_run(tier, "cpu", torch.bfloat16, 128) is not None


def _tier_call(name: str, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Attention:
    return partial(block_sparse_attention, q, k, v, layout, tier=name)


def measure(
    name: str,
    prepare: Callable[..., Attention],
    problem: Problem,
    device: torch.device,
    dtype: torch.dtype,
    rounds: int | None = None,
) -> Row:
    """One competitor on one problem. `rate` is executed blocks a second as a share of dense attention's:
    above 1 the kernel is faster a block than the dense one.

    Raises:
        ValueError: if its result is wrong; then it is not timed.
    """
    tensors, (dense_name, dense) = baseline(problem.shape, device, dtype)
    layout = layout_of(problem, device, dtype)
    if name in TIERS and (reason := cannot_take(name, layout)):
        return {"tier": name, "skipped": reason}
    try:
        sparse = prepare(*tensors, layout)
    except Skipped as reason:
        return {"tier": name, "skipped": str(reason)}
    error = error_of(sparse(), *tensors, layout)
    if name not in DENSE_PEERS and not error <= WRONG.get(name, WRONG_OTHERWISE):
        raise ValueError(f"wrong: its relative error is {error:.3g}")
    dense_ms, sparse_ms = medians([dense, sparse], device, rounds)
    density = 1.0 if name in DENSE_PEERS else float(layout.density)
    return {
        "tier": name,
        "shape": problem.shape,
        "dtype": str(dtype).removeprefix("torch."),
        "block_size": problem.block,
        "ragged": problem.ragged,
        "asked": problem.density,
        "density": round(density, 4),
        "dense": dense_name,
        "dense_ms": round(dense_ms, 3),
        "sparse_ms": round(sparse_ms, 3),
        "times_faster": round(dense_ms / sparse_ms, 3),
        "rate": round(density * dense_ms / sparse_ms, 4),
        "error": None if name in DENSE_PEERS else error,
    }


if __name__ == "__main__":
    typer.run(main)
