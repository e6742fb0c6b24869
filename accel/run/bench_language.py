"""Bench: prefill and decode of a language model of a named shape, with random weights, by length."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from accel.accelerate import accelerated, patches_of
from accel.apply.summary import summarize
from accel.mistake import Mistake
from accel.recipe.recipe import DENSE, Recipe

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
        "rope_theta": 500000.0,
    },
    "qwen3-8b": {
        "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "rope_theta": 1000000.0,
    },
    "smollm2-135m": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
        "rope_theta": 100000.0,
    },
    "tiny": {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One way to run one length.

    Args:
        seconds: of a prefill, prompt in and first logits out, the median of the runs; of decode, one token,
            the mean, as a search for keys serves several.
        attention_seconds: the part spent in attention, choosing blocks included; of other runs, by the mean.
        peak_bytes: most memory allocated on the device, weights included; None on the CPU.
        density: executed blocks / blocks of dense attention, a dense call counting 1.
        dense_reasons: calls that ran dense, by reason.
        sparse_calls: how many ran sparse.
    """

    seconds: float
    attention_seconds: float
    peak_bytes: int | None
    density: float
    dense_reasons: dict[str, int]
    sparse_calls: int


@dataclass(frozen=True)
class BenchRow:
    """Dense and accelerated at one length, in tokens of prompt or of cache.

    The speed-ups are None if no call ran sparse: then both sides timed the same dense calls.
    """

    tokens: int
    dense: Measured
    accelerated: Measured

    @property
    def ran_sparse(self) -> bool:
        return self.accelerated.sparse_calls > 0

    @property
    def times_faster(self) -> float | None:
        return self.dense.seconds / self.accelerated.seconds if self.ran_sparse else None

    @property
    def attention_times_faster(self) -> float | None:
        times = self.dense.attention_seconds, self.accelerated.attention_seconds
        return times[0] / times[1] if self.ran_sparse else None

    def __str__(self) -> str:
        if self.times_faster is not None:
            return f"{self.tokens} tokens: {self.times_faster:.2f} times as fast as dense"
        reasons = "; ".join(f"{reason} ({n} calls)" for reason, n in self.accelerated.dense_reasons.items())
        return f"{self.tokens} tokens: nothing ran sparse, so there is no speed to report: {reasons}"


def random_model(shape: str, longest: int, device: str, dtype: torch.dtype, layers: int | None = None) -> Any:
    """A model of a named shape with random weights and room for `longest` positions.

    Args:
        layers: how many of the shape's layers; None is all.

    Raises:
        Mistake: if no shape has the name.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if shape not in SHAPES:
        raise Mistake(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    values = dict(SHAPES[shape])
    if layers is not None:
        values["num_hidden_layers"] = min(layers, values["num_hidden_layers"])
    config = AutoConfig.for_model(values.pop("model_type"), **values, max_position_embeddings=longest)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def bench_prefill(model: Any, tokens: int, recipe: Recipe, repeats: int = 3) -> BenchRow:
    """A prompt of random tokens into an empty cache, until the logits of its last token are there."""
    ids = torch.randint(model.config.vocab_size, (1, tokens), device=model.device)

    def prefill() -> None:
        model(ids, logits_to_keep=1, use_cache=True)

    sides = (measure(model, prefill, each, repeats, 1, statistics.median) for each in (DENSE, recipe))
    return BenchRow(tokens, *sides)


def bench_decode(model: Any, tokens: int, recipe: Recipe, repeats: int = 16) -> BenchRow:
    """Tokens one by one after a cache of random keys and values, which they grow."""
    from transformers import DynamicCache

    config = model.config
    cache = DynamicCache(config=config)
    shape = (1, config.num_key_value_heads, tokens, config.head_dim)
    for layer in range(config.num_hidden_layers):
        keys, values = (torch.randn(shape, device=model.device, dtype=model.dtype) for _ in range(2))
        cache.update(keys, values, layer)
    ids = torch.randint(config.vocab_size, (1, 1), device=model.device)

    # transformers renamed the argument in 5.24.
    name = "cache" if "cache" in signature(model.forward).parameters else "past_key_values"

    def decode() -> None:
        model(ids, use_cache=True, **{name: cache})

    def side(each: Recipe) -> Measured:
        try:
            return measure(model, decode, each, repeats, repeats, statistics.mean)
        finally:
            cache.crop(tokens - cache.get_seq_length())

    return BenchRow(tokens, side(DENSE), side(recipe))


@torch.no_grad()
def measure(
    model: Any,
    call: Callable[[], None],
    recipe: Recipe,
    repeats: int,
    attention_repeats: int,
    average: Callable[[list[float]], float],
) -> Measured:
    """Time a call under a recipe, after one that is not counted and makes kernels and measurements ready."""
    on_cuda = model.device.type == "cuda"
    with accelerated(model, recipe):
        call()
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(model.device)
        times = [timed(call, on_cuda) for _ in range(repeats)]
        peak = torch.cuda.max_memory_allocated(model.device) if on_cuda else None
        (patch,) = patches_of(model)
        attention = patch.time_calls()
        for _ in range(attention_repeats):
            call()
        account = summarize([patch])
    density = account.density
    assert density is not None
    attention_seconds = attention.seconds / attention_repeats
    return Measured(
        average(times), attention_seconds, peak, density, account.dense_reasons, account.sparse_calls
    )


def timed(call: Callable[[], None], on_cuda: bool) -> float:
    """Seconds of a call, the device's work included."""
    if on_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if on_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
