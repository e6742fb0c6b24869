"""Block-sparse attention against the best dense attention of the machine, side by side in one run."""

from __future__ import annotations

import csv
import json
import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from accel.kernels.block_sparse_attention import block_sparse_attention
from accel.kernels.blocks import causal_blocks
from accel.kernels.layout import BlockLayout
from accel.kernels.tiers import TIERS, cannot_run
from accel.load_pipeline import best_device
from accel.versions import device_name, versions
from kernel_peers import PEERS, Skipped

DENSITIES = [1.0, 0.5, 0.3, 0.25, 0.1]
CPU_SHAPES = ["1,4,5184,64", "1,4,8192,64"]


class Target(NamedTuple):
    """The least rate of the best tier at a shape and density."""

    shape: str
    density: float
    rate: float


TARGETS = [
    Target("1,40,75600,128", 1.0, 0.95),
    Target("1,40,75600,128", 0.5, 0.95),
    Target("1,40,75600,128", 0.25, 0.95),
    Target("1,40,75600,128", 0.1, 0.90),
    Target("1,24,118800,128", 0.25, 0.95),
    Target("1,12,32760,128", 0.25, 0.90),
    Target("1,24,32768,64", 0.25, 0.90),
    Target("1,32/8,131072,128,causal", 0.2, 0.85),
]
RAGGED_TARGET = 0.95  # of the rate of equal lists
RAGGED = ("1,40,75600,128", 0.2)


@dataclass(frozen=True)
class Row:
    """One tier on one layout. `rate` is executed blocks a second as a share of dense attention's: above 1 the
    kernel is faster a block than the dense one."""

    tier: str
    shape: str
    dtype: str
    block_size: str
    ragged: bool
    density: float
    dense_ms: float
    sparse_ms: float
    times_faster: float
    rate: float
    error: float


def main(
    out: Annotated[Path, typer.Argument(help="CSV to write; a JSON with the machine goes beside it.")],
    shape: Annotated[list[str] | None, typer.Option(help="B,H[/Hkv],N,D[,causal].")] = None,
    density: Annotated[list[float] | None, typer.Option(help="Of random layouts.")] = None,
    block: Annotated[list[str] | None, typer.Option(help="Query rows x key rows.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Time every tier that can run here; prints a row as soon as it is measured."""
    device = torch.device(best_device())
    kind = getattr(torch, dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    rows: list[Row] = []
    skipped: dict[str, set[str]] = {}
    for text, share in cases(shape, density, device):
        q, k, v = inputs(text, device, kind)
        for size in block or ["128x128", "128x64", "64x64"]:
            for ragged in (False, True) if share == 0.25 or (text, share) == RAGGED else (False,):
                layout = random_layout(q, size, share, ragged, causal=text.endswith("causal"))
                calls, reasons = competitors(q, k, v, layout)
                for name, reason in reasons.items():
                    skipped.setdefault(name, set()).add(reason)
                for name, call in calls.items():
                    rows.append(measure(name, call, q, k, v, layout, text, ragged, repeats))
                    print(rows[-1], flush=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    machine = {"device": device_name(device), "threads": torch.get_num_threads(), **versions()}
    out.with_suffix(".json").write_text(
        json.dumps(
            {
                "machine": machine,
                "skipped": {name: sorted(reasons) for name, reasons in skipped.items()},
                "targets": [held_against(target, rows) for target in TARGETS],
                "ragged_target": {"of_equal": RAGGED_TARGET, "measured": ragged_share(rows)},
                "rows": [asdict(row) for row in rows],
            },
            indent=1,
        )
    )
    for name, reasons in skipped.items():
        print(f"skipped {name}: {'; '.join(sorted(reasons))}")


def cases(
    shapes: list[str] | None, densities: list[float] | None, device: torch.device
) -> list[tuple[str, float]]:
    """Shapes and densities to measure: what was asked for, or on a GPU every target and the ragged one."""
    if shapes is None and densities is None and device.type != "cpu":
        return [(target.shape, target.density) for target in TARGETS] + [RAGGED]
    default = CPU_SHAPES if device.type == "cpu" else list(dict.fromkeys(t.shape for t in TARGETS))
    return [(text, share) for text in shapes or default for share in densities or DENSITIES]


def inputs(text: str, device: torch.device, kind: torch.dtype) -> list[Tensor]:
    """Random q [B, H, N, D] and k, v [B, Hkv, N, D] of a shape."""
    batch, heads, tokens, dim = text.removesuffix(",causal").split(",")
    q_heads, _, kv_heads = heads.partition("/")
    return [
        torch.randn(int(batch), int(count), int(tokens), int(dim), device=device, dtype=kind)
        for count in (q_heads, kv_heads or q_heads, kv_heads or q_heads)
    ]


def held_against(target: Target, rows: list[Row]) -> dict[str, Any]:
    """A target with the best rate of our tiers on equal lists; none where it was not measured."""
    rates = [
        row.rate
        for row in rows
        if row.shape == target.shape
        and row.tier in TIERS
        and not row.ragged
        and math.isclose(row.density, target.density, abs_tol=0.01)
    ]
    best = max(rates, default=None)
    return {**target._asdict(), "measured": best, "met": None if best is None else best >= target.rate}


def ragged_share(rows: list[Row]) -> float | None:
    """The rate of ragged lists as a share of that of equal ones, best tier each; none if not measured."""
    shape, density = RAGGED
    rates: dict[bool, float] = {}
    for row in rows:
        if row.shape == shape and row.tier in TIERS and math.isclose(row.density, density, abs_tol=0.02):
            rates[row.ragged] = max(row.rate, rates.get(row.ragged, 0.0))
    return rates[True] / rates[False] if len(rates) == 2 else None


def competitors(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, str]]:
    """Every tier but the reference that can run these tensors, on a GPU the peers too; who not, and why."""
    refused = {name: cannot_run(name, q.device, q.dtype, q.shape[3]) for name in TIERS if name != "reference"}
    if layout.block_size[0] != 128 and not refused["hopper"]:
        refused["hopper"] = "takes query blocks of 128"
    calls: dict[str, Callable[[], Tensor]] = {
        name: partial(block_sparse_attention, q, k, v, layout, tier=name)
        for name, reason in refused.items()
        if reason is None
    }
    skipped = {name: reason for name, reason in refused.items() if reason}
    for name, peer in PEERS.items():
        try:
            if not q.is_cuda:
                raise Skipped("measured on a GPU only")
            calls[name] = peer(q, k, v, layout)
        except Skipped as reason:
            skipped[name] = str(reason)
    return calls, skipped


def random_layout(q: Tensor, size: str, density: float, ragged: bool, causal: bool = False) -> BlockLayout:
    """Random blocks: as many in every row, or a lognormal number of them with the same mean."""
    rows, columns = map(int, size.split("x"))
    batch, heads, tokens, _ = q.shape
    q_blocks, kv_blocks = math.ceil(tokens / rows), math.ceil(tokens / columns)
    past = torch.ones(q_blocks, kv_blocks, dtype=torch.bool)
    if causal:
        past = causal_blocks((rows, columns), tokens, tokens)
    count = (density * past.sum(dim=-1, keepdim=True)).expand(batch, heads, -1, -1)
    if ragged:
        count = count * torch.randn(count.shape).mul(0.5).sub(0.125).exp()
    weight = torch.rand(batch, heads, q_blocks, kv_blocks).masked_fill(~past, 2.0)
    rank = weight.argsort(-1).argsort(-1)
    keep = (rank < count.round().clamp(min=1)).to(q.device)
    return BlockLayout.from_mask(keep, (rows, columns), tokens, tokens, causal=causal)


def measure(
    name: str,
    sparse: Callable[[], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: BlockLayout,
    shape: str,
    ragged: bool,
    repeats: int,
) -> Row:
    """Medians of interleaved calls, so that clocks and neighbours change both alike."""

    def dense() -> Tensor:
        with best_dense(q.device):
            return scaled_dot_product_attention(q, k, v, is_causal=layout.causal, enable_gqa=True)

    for warm_up in (dense, sparse, dense, sparse):
        warm_up()
    times = [(milliseconds(dense, q.device), milliseconds(sparse, q.device)) for _ in range(repeats)]
    dense_ms, sparse_ms = (statistics.median(column) for column in zip(*times, strict=True))
    density = float(layout.density)
    return Row(
        name,
        shape,
        str(q.dtype).removeprefix("torch."),
        "x".join(map(str, layout.block_size)),
        ragged,
        round(density, 4),
        round(dense_ms, 3),
        round(sparse_ms, 3),
        round(dense_ms / sparse_ms, 3),
        round(density * dense_ms / sparse_ms, 3),
        error_of(sparse(), q, k, v, layout),
    )


def best_dense(device: torch.device) -> AbstractContextManager:
    """cuDNN where there is a GPU: the default can be half as fast, which would flatter the sparse kernel."""
    return sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if device.type == "cuda" else nullcontext()


def milliseconds(call: Callable[[], Tensor], device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def error_of(out: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> float:
    """Relative error of the first head's first 256 queries against float64 under the token mask."""
    rows, columns = layout.block_size
    queries = min(256, q.shape[2])
    keep = layout.listed[0, 0, : math.ceil(queries / rows)].repeat_interleave(rows, 0)[:queries]
    mask = keep.repeat_interleave(columns, 1)[:, : k.shape[2]]
    if layout.causal:
        mask = mask & torch.ones_like(mask).tril()
    first, keys, values = q[0, 0, :queries].double(), k[0, 0].double(), v[0, 0].double()
    exact = scaled_dot_product_attention(first, keys, values, mask)
    return float((out[0, 0, :queries].double() - exact).norm() / exact.norm())


if __name__ == "__main__":
    typer.run(main)
