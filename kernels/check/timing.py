"""Timing: what the tiers of a machine, and the candidates for a kernel's configuration, take for one call.

Run in the process that checks tiers, never while anything is generated. A candidate is checked before it is
timed, in the forms that kernels are compiled for apart.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from accel.kernels.attention.tiers import cannot_take
from accel.kernels.attention.tiers import tier as tier_of
from accel.kernels.check.forms import OUT_OF_MEMORY, Form, problem, wrong
from accel.kernels.launch import Config, only_compiling, target
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.timings import BLOCKS, Call, trying

TOKENS, HEADS, DENSITY = 16_384, 8, 0.25
FORMS = (Form(), Form(causal=True, padded=True, group=3), Form(order="heads", causal=True))
TILES = (1, 3)  # of 128 keys, in the calls of the check

Timer = Callable[[Callable[[], Any]], float]


def seconds_of(run: Callable[[], Any]) -> float:
    """The median of a few dozen milliseconds of runs, nothing of them in the GPU's cache before."""
    from triton.testing import do_bench

    return float(do_bench(run, warmup=10, rep=40, return_mode="median")) / 1000


@torch.no_grad()
def compile_candidates(tiers: Sequence[str], device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Compile what `timings` will run, by a thread for each core, and run no kernel of it."""
    if device.type != "cuda":
        return
    with torch.cuda.device(device), only_compiling(os.cpu_count() or 1):
        for call, tier, configs in _choices(tiers, device, dtype, head_dim):
            for config in configs:
                with trying(config):
                    tier_of(tier).load()(*timed_call(call))
                    for q, k, v, layout in _checks(call) if config else ():
                        tier_of(tier).load()(q, k, v, layout)


@torch.no_grad()
def timings(
    tiers: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    timer: Timer | None = None,
) -> Iterator[tuple[str, float]]:
    """Seconds by `Call.key`: of each tier and size of blocks, and of each candidate of its kernel.

    What cannot run, or computes something else, takes infinitely long. So does what ends the process: each is
    given as infinite before it runs.
    """
    choices = _choices(tiers, device, dtype, head_dim)
    for call, tier, configs in choices:
        yield call.key(tier), math.inf
        yield from ((call.key(tier, config), math.inf) for config in configs if config)
    for call, tier, configs in choices:
        best = math.inf
        for config in configs:
            taken = _seconds(tier, call, config, timer or seconds_of)
            if config:
                yield call.key(tier, config), taken
            best = min(best, taken)
        yield call.key(tier), best


def _choices(
    tiers: Sequence[str], device: torch.device, dtype: torch.dtype, head_dim: int
) -> list[tuple[Call, str, Sequence[Config | None]]]:
    """Each tier in blocks of each size with the configurations to try; none where it takes no such blocks."""
    found: list[tuple[Call, str, Sequence[Config | None]]] = []
    for block in BLOCKS:
        layout = BlockLayout.full(1, 1, block)
        for tier in tiers:
            configs: Sequence[Config | None] = [None]
            if cannot_take(tier, layout):
                configs = []
            elif tier_of(tier).configurations is not None:
                configs = tier_of(tier).candidates(target(), block, head_dim)
            found.append((Call(device, dtype, head_dim, block), tier, configs))
    return found


def _seconds(tier: str, call: Call, config: Config | None, timer: Timer) -> float:
    inputs = timed_call(call)
    with torch.cuda.device_of(inputs[0]), trying(config):
        try:
            if config and any(wrong(tier, *check) for check in _checks(call)):
                return math.inf
            run = partial(tier_of(tier).load(), *inputs)
            run()
            return timer(run)
        except Exception as error:
            # A full GPU says nothing of a configuration; what does not fit on one does.
            if OUT_OF_MEMORY in str(error):
                raise
            return math.inf


def timed_call(call: Call) -> tuple[Tensor, Tensor, Tensor, BlockLayout]:
    """q, k, v and random lists of `DENSITY`, the same number of blocks in each."""
    draw = torch.Generator(call.device).manual_seed(0)
    shape = (3, 1, HEADS, TOKENS, call.head_dim)
    q, k, v = torch.randn(shape, generator=draw, device=call.device, dtype=call.dtype)
    rows, columns = (-(-TOKENS // size) for size in call.block)
    order = torch.rand(1, HEADS, rows, columns, generator=draw, device=call.device).argsort(dim=-1)
    keep = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order[..., : int(DENSITY * columns)], True)
    return q, k, v, BlockLayout.from_mask(keep, call.block, TOKENS, TOKENS)


def _checks(call: Call) -> Iterator[tuple[Tensor, Tensor, Tensor, BlockLayout]]:
    rows, columns = call.block
    for form in FORMS:
        for tiles in TILES:
            yield problem(form, columns, tiles, call.device, call.dtype, call.head_dim, rows)
