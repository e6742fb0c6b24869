"""Forms: small calls of every kind that check whether a tier computes here what the reference does.

A configuration that compiles may still give NaN or hang, so what runs by choice of the machine is run first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.attention.tiers import cannot_take
from accel.kernels.attention.tiers import tier as tier_of
from accel.kernels.check.exactness import disagreement, rounded_too_far
from accel.kernels.layout.layout import KEY_ROWS, BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.visibility import ALWAYS, NEVER, Visibility
from accel.kernels.layout.work_order import processors

TILES = range(1, 10)  # of 128 keys: every number that a pipeline of four stages starts, wraps and ends with
BATCH, ROWS = 2, 128
ROOM, NO_BLOCK = 81, 1 << 20  # entries of a list, and what follows its last one
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Form:
    """What distinguishes calls for a kernel, apart from the key rows of a block and the number of its tiles.

    Args:
        group: query heads that share a key head.
        even: lengths are multiples of 16, which kernels are compiled for apart.
        few: so few rows that all run at once.
        hides: queries see the chunks up to their own, and of the last keys those of their own chunk alone.
        order: tokens are reordered, in an order "shared" by all heads or for each of the "heads".
    """

    causal: bool = False
    window: int | None = None
    hides: bool = False
    group: int = 1
    padded: bool = False
    even: bool = False
    few: bool = False
    order: str | None = None
    tail: bool = False


FORMS: dict[str, Form] = {
    "plain": Form(),
    "lengths that 16 divides": Form(even=True),
    "few rows": Form(few=True),
    "causal": Form(causal=True, group=3),
    "causal in a window": Form(causal=True, window=200, group=3),
    "under a visibility": Form(hides=True),
    "under a visibility, in an order": Form(hides=True, order="heads"),
    "padded": Form(padded=True),
    "causal and padded": Form(causal=True, padded=True, group=3),
    "in an order": Form(order="shared"),
    "in an order per head": Form(order="heads"),
    "in an order, causal": Form(order="heads", causal=True),
    "with a tail": Form(tail=True),
}


@torch.no_grad()
def compile_calls(tier: str, device: torch.device | str, dtype: torch.dtype, head_dim: int) -> None:
    """Compile what `first_failure` will run, with a thread for each core, without running any kernel."""
    device = torch.device(device)
    if device.type != "cuda":
        return
    from accel.kernels.launch import only_compiling

    attend = tier_of(tier).load()
    with torch.cuda.device(device), only_compiling(os.cpu_count() or 1):
        for columns, form in product(KEY_ROWS, FORMS.values()):
            # Kernels differ by the strides of tokens, which even and odd numbers of tiles have apart.
            for tiles in TILES[:2]:
                q, k, v, layout = problem(form, columns, tiles, device, dtype, head_dim)
                if cannot_take(tier, layout) is None:
                    attend(q, k, v, layout)


@torch.no_grad()
def first_failure(
    tier: str,
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int,
    tell: Callable[[str], None] = lambda form: None,
) -> str | None:
    """The first call that `tier` gets wrong, in words; None if all are right.

    Each is as near to float64 as twice the reference's own error in `dtype`, or as a tier that rounds may be
    apart from it, finite where float64 is, and the
    same to the bit when repeated; new tensors are full of NaN, so that nothing is left unwritten.

    Args:
        tier: a key of `TIERS` that can run such calls.
        tell: is called with each form before it runs.
    """
    device = torch.device(device)
    with torch.cuda.device_of(torch.empty(0, device=device)):
        for columns, (name, form) in product(KEY_ROWS, FORMS.items()):
            tell(f"{name}, key blocks of {columns}")
            for tiles in TILES:
                q, k, v, layout = problem(form, columns, tiles, device, dtype, head_dim)
                if cannot_take(tier, layout) is None and (found := wrong(tier, q, k, v, layout)):
                    call = f"{name}, key blocks of {columns}, {layout.q_len} queries, {layout.kv_len} keys"
                    return f"{call}: {found}"
    return None


def problem(
    form: Form,
    columns: int,
    tiles: int,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    rows: int = ROWS,
) -> tuple[Tensor, Tensor, Tensor, BlockLayout]:
    """q, k, v, views of [B, N, H, D] for odd `tiles`, and lists: in full, random ones, and empty ones."""
    draw = torch.Generator(device).manual_seed(1000 * columns + tiles)
    q_len, kv_len = (304, ROWS * tiles) if form.even else (301, ROWS * tiles - 27)
    q_blocks, kv_blocks = math.ceil(q_len / rows), math.ceil(kv_len / columns)
    at_once = 0 if form.few else processors(device) // (BATCH * q_blocks * form.group)
    heads = form.group * max(2, at_once + 1)
    keep = torch.rand(BATCH, heads, q_blocks, kv_blocks, generator=draw, device=device) < 0.5
    keep[:, :, 0] = True
    keep[:, -1, 1] = False
    lengths = None
    if form.padded:
        lengths = torch.tensor([kv_len - 5, (tiles - 1) * 50], dtype=torch.int32, device=device)

    def order(length: int, heads: int) -> TokenOrder | None:
        if form.order is None:
            return None
        shape = (length,) if form.order == "shared" else (BATCH, heads, length)
        return TokenOrder(torch.rand(shape, generator=draw, device=device).argsort(-1))

    def tokens(heads: int, length: int) -> Tensor:
        drawn = torch.randn(BATCH, length, heads, head_dim, generator=draw, device=device).to(dtype)
        return drawn.transpose(1, 2) if tiles % 2 else drawn.transpose(1, 2).contiguous()

    kv_heads = heads // form.group
    layout = BlockLayout.from_mask(
        keep, (rows, columns), q_len, kv_len,
        causal=form.causal, window=form.window, kv_lengths=lengths,
        visibility=chunks_and_references(q_len, kv_len) if form.hides else None,
        q_order=order(q_len, heads), kv_order=order(kv_len, kv_heads), tail=form.tail,
    )  # fmt: skip
    # As much room for all: kernels are compiled again for strides that 16 divides.
    room = (0, ROOM - layout.kv_indices.shape[3])
    layout = replace(layout, kv_indices=F.pad(layout.kv_indices, room, value=NO_BLOCK))
    return tokens(heads, q_len), tokens(kv_heads, kv_len), tokens(kv_heads, kv_len), layout


def chunks_and_references(q_len: int, kv_len: int) -> Visibility:
    """Three chunks, each seen by its own queries and all later ones; behind them keys that the queries of one
    chunk see alone; at last queries that see nothing, and keys that nobody sees."""
    chunks = 3
    queries = (q_len - 7) // chunks
    keys = (kv_len - 7) // (2 * chunks)
    rest = q_len - queries * chunks, kv_len - keys * (2 * chunks)
    return Visibility(
        (*((queries, chunk) for chunk in range(chunks)), (rest[0], -1)),
        (
            *((keys, chunk, ALWAYS) for chunk in range(chunks)),
            *((keys, chunk, chunk) for chunk in range(chunks)),
            (rest[1], *NEVER),
        ),
    )


def wrong(tier: str, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> str | None:
    """What is wrong with a tier's output and LSE of one call; None if nothing is."""
    try:
        with new_tensors_of_nan():
            attend = tier_of(tier).load()
            first, second = (attend(q, k, v, layout) for _ in range(2))
            if q.is_cuda:
                torch.cuda.synchronize()
    except Exception as error:
        if OUT_OF_MEMORY in str(error):
            raise
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    rounding = tier_of(tier).error
    against = (
        disagreement(first, q, k, v, layout)
        if rounding is None
        else rounded_too_far(first, q, k, v, layout, rounding)
    )
    if against:
        return against
    same = all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    return None if same else "repeated, it gave other bits"


@contextmanager
def new_tensors_of_nan() -> Iterator[None]:
    """Have `torch.empty` and its kin filled with NaN, which PyTorch does in its deterministic mode."""
    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
