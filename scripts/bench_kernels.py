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
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from accel.kernels.block_sparse_attention import block_sparse_attention
from accel.kernels.layout import BlockLayout
from accel.kernels.tiers import TIERS, cannot_run
from accel.load_pipeline import best_device
from accel.versions import device_name, versions

CPU_SHAPES = ["1,4,5184,64", "1,4,8192,64"]
CUDA_SHAPES = ["1,12,32760,128", "1,40,75600,128", "1,24,118800,128", "1,24,32768,64"]


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
    shape: Annotated[list[str] | None, typer.Option(help="B,H,N,D.")] = None,
    density: Annotated[list[float] | None, typer.Option(help="Of random layouts.")] = None,
    block: Annotated[list[str] | None, typer.Option(help="Query rows x key rows.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Time every tier that can run here; prints a row as soon as it is measured."""
    device = torch.device(best_device())
    kind = getattr(torch, dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    rows = []
    for text in shape or (CPU_SHAPES if device.type == "cpu" else CUDA_SHAPES):
        q, k, v = (torch.randn(*map(int, text.split(",")), device=device, dtype=kind) for _ in range(3))
        for size in block or ["128x128", "128x64", "64x64"]:
            for share in density or [1.0, 0.5, 0.3, 0.25, 0.1]:
                for ragged in (False, True) if share == 0.25 else (False,):
                    layout = random_layout(q, size, share, ragged)
                    calls = competitors(q, k, v, layout)
                    for name, call in calls.items():
                        rows.append(measure(name, call, q, k, v, layout, text, ragged, repeats))
                        print(rows[-1], flush=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    machine = {"device": device_name(device), "threads": torch.get_num_threads(), **versions()}
    out.with_suffix(".json").write_text(
        json.dumps({"machine": machine, "rows": [asdict(r) for r in rows]}, indent=1)
    )


def competitors(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> dict[str, Callable[[], Tensor]]:
    """Every tier but the reference that can run these tensors; on a GPU also FlexAttention, the peer."""
    tiers = [
        name for name in TIERS if name != "reference" and not cannot_run(name, q.device, q.dtype, q.shape[3])
    ]
    if layout.block_size[0] != 128 and "hopper" in tiers:
        tiers.remove("hopper")
    calls = {name: partial(block_sparse_attention, q, k, v, layout, tier=name) for name in tiers}
    if q.is_cuda:
        mask = flex_mask(layout)
        calls["flex_attention"] = partial(torch.compile(flex_attention), q, k, v, block_mask=mask)
    return calls


def flex_mask(layout: BlockLayout) -> BlockMask:
    """The layout as FlexAttention's mask: all listed blocks full, without causality, padding or order."""
    rows, columns = layout.block_size
    listed = layout.listed

    def is_listed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return listed[b, h, query // rows, key // columns]

    nothing = torch.zeros_like(layout.kv_num_blocks), torch.zeros_like(layout.kv_indices)
    return BlockMask.from_kv_blocks(
        *nothing,
        layout.kv_num_blocks,
        layout.kv_indices,
        BLOCK_SIZE=layout.block_size,
        mask_mod=is_listed,
        seq_lengths=(layout.q_len, layout.kv_len),
    )


def random_layout(q: Tensor, size: str, density: float, ragged: bool) -> BlockLayout:
    """Random blocks: as many in every row, or a lognormal number of them with the same mean."""
    rows, columns = map(int, size.split("x"))
    batch, heads, tokens, _ = q.shape
    q_blocks, kv_blocks = math.ceil(tokens / rows), math.ceil(tokens / columns)
    count = torch.full((batch, heads, q_blocks, 1), density * kv_blocks)
    if ragged:
        count = count * torch.randn(count.shape).mul(0.5).sub(0.125).exp()
    rank = torch.rand(batch, heads, q_blocks, kv_blocks).argsort(-1).argsort(-1)
    keep = (rank < count.round().clamp(min=1)).to(q.device)
    return BlockLayout.from_mask(keep, (rows, columns), tokens, tokens)


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
            return scaled_dot_product_attention(q, k, v)

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
    first, keys, values = q[0, 0, :queries].double(), k[0, 0].double(), v[0, 0].double()
    exact = scaled_dot_product_attention(first, keys, values, mask)
    return float((out[0, 0, :queries].double() - exact).norm() / exact.norm())


if __name__ == "__main__":
    typer.run(main)
