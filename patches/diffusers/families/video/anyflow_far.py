"""AnyFlow-FAR: video in chunks, one after another, after a cache of those before, the oldest of them coarse.

A step's queries are those of the chunk; its keys are the coarse chunks, the cached ones and its own. When a
chunk is done, all chunks are written to the cache at once, each seeing itself and those before. The processor
fills queries and keys up to a multiple of 128: in a step, the added keys are seen.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_anyflow_far import AnyFlowCausalAttnProcessor

from accel.patches.diffusers.flex import FlexProcessor
from accel.patches.diffusers.reading import modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import Run, Span, TokenGrid

PROCESSORS = routed(AnyFlowCausalAttnProcessor, mixin=FlexProcessor)
attention_modules = modules_named("blocks.*.attn1")


def is_preparation(kwargs: dict[str, Any]) -> bool:
    """Whether a forward writes the cache."""
    return kwargs.get("kv_cache") is not None and bool(kwargs["kv_cache_flag"]["is_cache_step"])


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward: the fine chunks [B, F, C, H, W], behind the coarse ones.

    Raises:
        ValueError: if clean frames follow the noisy ones, as in training.
    """
    if kwargs.get("clean_hidden_states") is not None:
        raise ValueError("clean frames beside the noisy ones")
    config, chunks = model.config, tuple(kwargs["chunk_partition"])
    reads = kwargs.get("kv_cache") is not None and not is_preparation(kwargs)
    fine = min(len(chunks), config.full_chunk_limit - is_preparation(kwargs))
    coarse = len(chunks) - fine
    sides = kwargs["hidden_states"].shape[-2:]
    height, width = (side // size for side, size in zip(sides, config.patch_size[1:], strict=True))
    shrunk = [side // size for side, size in zip(sides, config.compressed_patch_size[1:], strict=True)]
    lead, frame = Span(0, sum(chunks[:coarse]), *shrunk), height * width
    runs = [
        Run.chunk(frames * lead.height * lead.width, number) for number, frames in enumerate(chunks[:coarse])
    ]
    runs += [Run.chunk(frames * frame, number) for number, frames in enumerate(chunks[coarse:], coarse)]
    if reads:
        runs = [*(Run.keys(run.tokens) for run in runs[:-1]), runs[-1]]
    tokens = runs[-1].tokens if reads else sum(run.tokens for run in runs)
    padding = (Run.keys if reads else Run.padding)(-tokens % 128)
    return TokenGrid(
        sum(chunks[coarse:]),
        height,
        width,
        lead_tokens=lead.tokens,
        tail_tokens=padding.tokens,
        spans=(lead,) if lead.tokens else (),
        runs=(*runs, padding),
    )
