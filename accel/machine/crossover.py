"""Crossover: the density below which sparse attention beats dense on this machine, measured once and kept.

A recipe that says nothing of `min_tokens` asks here for every length a language model meets, rounded down
to a power of two. Dense attention, the choice of blocks and sparse attention at two densities are timed on
random tensors; the time of sparse attention is taken to be linear between and beyond them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.attention.tiers import choose_tier
from accel.kernels.decode.attention import decode_attention
from accel.kernels.layout.layout import BlockLayout
from accel.machine.measurements import measured_once
from accel.machine.tier_check import check_if_unknown
from accel.machine.versions import device_name
from accel.patches.context import Context
from accel.policies.decode.memory import DecodeMemory
from accel.policies.decode.search import DecodeSearch
from accel.policies.policy import Policy

SHORTEST = 1024
LONGEST, LONGEST_ON_CPU = 65536, 8192
TIMED_DENSITIES = (0.1, 0.4)
MARGIN = 0.95
REPEATS = 3
LONG = 1.0

Timer = Callable[[Callable[[], Any], torch.device], float]


@dataclass(frozen=True)
class Shape:
    """The attention calls that are compared.

    Args:
        q_len, kv_len: tokens, powers of two; heads, kv_heads, head_dim: of q, k and v.
    """

    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, q: Tensor, k: Tensor) -> Shape:
        """The shape to measure for q [B, H, M, D] and k [B, Hkv, N, D]: lengths rounded down, and bounded.

        On the CPU the heads of one key head represent all: time is proportional to heads there.
        """
        heads, kv_heads = q.shape[1], k.shape[1]
        longest = LONGEST
        if q.device.type == "cpu":
            heads, kv_heads, longest = heads // kv_heads, 1, LONGEST_ON_CPU
        q_len, kv_len = (min(floor_power_of_two(x.shape[2]), longest) for x in (q, k))
        return cls(q_len, kv_len, heads, kv_heads, q.shape[3])

    def noise(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Random q, k and v of one sample, from a separate generator."""
        generator = torch.Generator(device).manual_seed(0)
        q, k, v = (
            torch.randn(1, heads, length, self.head_dim, generator=generator, device=device, dtype=dtype)
            for heads, length in (
                (self.heads, self.q_len),
                (self.kv_heads, self.kv_len),
                (self.kv_heads, self.kv_len),
            )
        )
        return q, k, v


def break_even(q: Tensor, k: Tensor, policy: Policy) -> float:
    """The density at which a call like this one takes as long sparse, choice of blocks included, as dense.

    In [0, 1]; 0 means that dense is always faster. Calls of fewer than `SHORTEST` keys are never measured.
    """
    if k.shape[2] < SHORTEST:
        return 0.0
    check_if_unknown(q.device, q.dtype, q.shape[3])
    shape = Shape.of(q, k)
    key = _key(q, shape, policy)
    return measured_once(key, lambda: measure_break_even(shape, policy, q.device, q.dtype))


def decode_pays(q: Tensor, k: Tensor, decode: DecodeSearch) -> bool:
    """Whether a token's attention is faster sparse than dense, the search for keys spread over the tokens it
    serves."""
    if k.shape[2] < SHORTEST:
        return False
    shape = Shape.of(q, k)
    key = _key(q, shape, decode)
    return measured_once(key, lambda: measure_decode(shape, decode, q.device, q.dtype)) < MARGIN


@torch.no_grad()
def measure_break_even(
    shape: Shape, policy: Policy, device: torch.device, dtype: torch.dtype, timer: Timer | None = None
) -> float:
    """Time dense attention, the choice of blocks, and sparse attention at two densities."""
    seconds = timer or best_seconds
    q, k, v = shape.noise(device, dtype)
    dense = seconds(partial(dense_attention, q, k, v), device)
    plan = seconds(lambda: policy.layout(q, k, None, Context()), device)
    layout = policy.layout(q, k, None, Context())
    low, high = (
        seconds(partial(block_sparse_attention, q, k, v, at_density(layout, density)), device)
        for density in TIMED_DENSITIES
    )
    spare = MARGIN * dense - plan
    slope = (high - low) / (TIMED_DENSITIES[1] - TIMED_DENSITIES[0])
    if slope <= 0:
        return 1.0 if high < spare else 0.0
    return min(max(TIMED_DENSITIES[0] + (spare - low) / slope, 0.0), 1.0)


@torch.no_grad()
def measure_decode(
    shape: Shape, decode: DecodeSearch, device: torch.device, dtype: torch.dtype, timer: Timer | None = None
) -> float:
    """Seconds of sparse / dense attention for a token, averaged over the tokens that one search serves."""
    seconds = timer or best_seconds
    q, k, v = replace(shape, q_len=1).noise(device, dtype)
    tokens = max(decode.refresh)

    def sparse() -> None:
        memory = DecodeMemory()
        for _ in range(tokens):
            decode_attention(q, k, v, decode.layout(q, k, None, memory))

    def dense() -> None:
        for _ in range(tokens):
            dense_attention(q, k, v)

    return seconds(sparse, device) / seconds(dense, device)


def dense_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention, queries the last tokens of the sequence."""
    q_len, kv_len = q.shape[2], k.shape[2]
    mask = None
    if 1 < q_len < kv_len:
        mask = torch.ones(q_len, kv_len, dtype=torch.bool, device=q.device).tril(kv_len - q_len)
    causal = q_len == kv_len > 1
    grouped = q.shape[1] != k.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def at_density(layout: BlockLayout, density: float) -> BlockLayout:
    """A causal layout like this one, with evenly spread lists of a density: noise has no heavy blocks."""
    rows, columns = layout.block_size
    last_query = torch.arange(1, layout.num_q_blocks + 1, device=layout.device) * rows
    seen = (last_query.clamp(max=layout.q_len) + layout.kv_len - layout.q_len).div(columns).ceil()
    counts = (seen * density).ceil()
    slots = torch.arange(max(1, round(layout.num_kv_blocks * density + 1)), device=layout.device)
    indices = (slots * seen[:, None] / counts[:, None]).floor().clamp(max=layout.num_kv_blocks - 1)
    return replace(layout, kv_indices=indices.int()[None, None], kv_num_blocks=counts.int()[None, None])


def best_seconds(call: Callable[[], Any], device: torch.device) -> float:
    """The best of a few runs after the first; of a call that takes long, the first run."""
    taken: list[float] = []
    while len(taken) <= REPEATS and (not taken or taken[-1] < LONG):
        started = time.perf_counter()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        taken.append(time.perf_counter() - started)
    return min(taken[1:] or taken)


def floor_power_of_two(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _key(q: Tensor, *parts: object) -> str:
    """All that a measurement depends on: the machine, the shape and the policy."""
    tier = choose_tier(q.device, q.dtype, q.shape[3]).name
    threads = torch.get_num_threads() if q.device.type == "cpu" else ""
    machine = (device_name(q.device), threads, q.dtype, tier, torch.__version__)
    return " ".join(map(str, (*machine, *parts)))
