"""Crossover: whether sparse attention can beat dense at some length on this machine, measured once and kept.

A recipe that says nothing of `min_tokens` asks here for every length a language model meets, rounded down to
a power of two: one call of each kind is timed on random tensors, the answer is remembered in this process and
in a file of the user's cache.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from accel.kernels.block_sparse_attention import block_sparse_attention
from accel.kernels.layout import BlockLayout
from accel.kernels.tiers import choose_tier
from accel.patches.context import Context
from accel.policies.policy import Policy
from accel.versions import device_name

SHORTEST, LONGEST = 1024, 65536
ASSUMED_DENSITY = 0.2
REPEATS = 3
LONG = 1.0


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
        """The shape to measure for q [B, H, M, D] and k [B, Hkv, N, D]: lengths rounded down.

        On the CPU the heads of one key head stand for all: time is proportional to heads there.
        """
        q_len, kv_len = (min(floor_power_of_two(x.shape[2]), LONGEST) for x in (q, k))
        heads, kv_heads = q.shape[1], k.shape[1]
        if q.device.type == "cpu":
            heads, kv_heads = heads // kv_heads, 1
        return cls(q_len, kv_len, heads, kv_heads, q.shape[3])


def dense_is_faster(q: Tensor, k: Tensor, policy: Policy) -> bool:
    """Whether a call like this one would be slower sparse, even at a density of `ASSUMED_DENSITY`.

    Calls of less than `SHORTEST` keys are dense without a measurement.
    """
    if k.shape[2] < SHORTEST:
        return True
    shape = Shape.of(q, k)
    key = " ".join(map(str, (*_machine(q), shape, policy)))
    if key not in _ANSWERS:
        _ANSWERS.update(_read_file())
    if key not in _ANSWERS:
        _ANSWERS[key] = not sparse_wins(shape, policy, q.device, q.dtype)
        _write_file()
    return _ANSWERS[key]


@torch.no_grad()
def sparse_wins(shape: Shape, policy: Policy, device: torch.device, dtype: torch.dtype) -> bool:
    """Time one dense and one sparse call. Random numbers come from a generator of their own."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(heads: int, length: int) -> Tensor:
        return torch.randn(1, heads, length, shape.head_dim, generator=generator, device=device, dtype=dtype)

    q = noise(shape.heads, shape.q_len)
    k, v = noise(shape.kv_heads, shape.kv_len), noise(shape.kv_heads, shape.kv_len)
    offset = shape.kv_len - shape.q_len
    mask = None
    if offset:
        mask = torch.ones(shape.q_len, shape.kv_len, dtype=torch.bool, device=device).tril(offset)

    def dense() -> None:
        torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=shape.heads != shape.kv_heads
        )

    def sparse() -> None:
        block_sparse_attention(q, k, v, thinned(policy.layout(q, k, None, Context())))

    return seconds(sparse, device) < seconds(dense, device)


def thinned(layout: BlockLayout) -> BlockLayout:
    """A layout whose lists are cut to `ASSUMED_DENSITY`: noise has no heavy blocks to be sparse about."""
    rows, columns = layout.block_size
    last_query = torch.arange(1, layout.num_q_blocks + 1, device=layout.device) * rows
    seen = (last_query.clamp(max=layout.q_len) + layout.kv_len - layout.q_len) / columns
    most = (seen * ASSUMED_DENSITY).ceil().int()
    return replace(layout, kv_num_blocks=torch.minimum(layout.kv_num_blocks, most))


def seconds(call: Callable[[], None], device: torch.device) -> float:
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


def cache_file() -> Path:
    """Where answers are kept; deleting the file measures anew."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sparse-accel" / "crossover.json"


_ANSWERS: dict[str, bool] = {}


def _machine(q: Tensor) -> tuple[str, ...]:
    tier = choose_tier(q.device, q.dtype, q.shape[3]).name
    threads = str(torch.get_num_threads()) if q.device.type == "cpu" else ""
    return device_name(q.device), threads, str(q.dtype), tier, torch.__version__


def _read_file() -> dict[str, bool]:
    try:
        data = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        {key: answer for key, answer in data.items() if isinstance(answer, bool)}
        if isinstance(data, dict)
        else {}
    )


def _write_file() -> None:
    """Whole or not at all; a cache that cannot be written is measured again by the next process."""
    path = cache_file()
    draft = path.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({**_read_file(), **_ANSWERS}, indent=1), encoding="utf-8")
        draft.replace(path)
