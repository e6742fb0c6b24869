"""What the processes of the context parallel tests do: one tiny model, spread over them."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import AttentionBackendName, ContextParallelConfig
from diffusers.models import attention_dispatch
from torch._dynamo.testing import CompileCounter

import tiny
from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of
from accel.kernels.layout.layout import BlockLayout
from accel.load.pipeline import load_pipeline
from accel.recipe.recipe import Recipe
from documents import snippets_of, standing_in
from keep_everything import KeepEverything
from tiny_families import CASES, output

PAGE = Path(__file__).parents[3] / "docs" / "multi-gpu.md"
PER_HEAD = {
    "method": "compose",
    "score": {"kind": "pooled"},
    "select": {"kind": "top_k", "density": 0.4},
    "block_size": [16, 16],
}
PER_LAYER = {**PER_HEAD, "select": {"kind": "top_k", "density": 0.4, "budget": "layer", "row_density": 0.1}}
RADIAL = {"method": "radial", "decay": 0.3, "block_size": [16, 16]}


class KeepEveryToken(KeepEverything):
    """A process has to see all tokens of the grid."""

    def layout(self, q: Any, k: Any, grid: Any, context: Any) -> BlockLayout:
        assert q.shape[2] == grid.tokens
        return super().layout(q, k, grid, context)


def model_and_inputs(name: str, heads: int, size: tuple[int, int, int]) -> tuple[Any, dict[str, Any]]:
    """A tiny model and the arguments of a forward over that many frames, rows and columns of tokens."""
    if name == "wan":
        model = tiny.wan(num_attention_heads=heads)
        return model, tiny.inputs(model, size[0], 2 * size[1], 2 * size[2])
    case = CASES[name]
    config = {**case.config, "num_attention_heads": heads}
    # Amplifying history is not the same for diffusers in one process and in several.
    config.pop("is_amplify_history", None)
    if "cross_attention_dim" in config:
        config["cross_attention_dim"] = heads * config["attention_head_dim"]
    case = replace(case, config=config)
    arguments = case.arguments(size)
    # LTX repeats it for all heads, of which diffusers' parallel attention has a share only.
    if "encoder_attention_mask" in arguments:
        arguments["encoder_attention_mask"] = None
    if name == "flux2":
        arguments |= {ids: arguments[ids][None] for ids in ("img_ids", "txt_ids")}
    return case.model(), arguments


def plan_of(model: Any) -> dict[str, Any]:
    """The model's own plan; Helios's without the blocks that only the published size has."""
    names = {name for name, _ in model.named_modules()}
    return {name: split for name, split in model._cp_plan.items() if "*" in name or name in names}


def accelerate(model: Any, policy: dict[str, Any] | None) -> None:
    """By a policy; none keeps everything."""
    rule = {"match": "*", "policy": policy or {"method": "dense"}}
    accelerate_model(model, Recipe.model_validate({"rules": [rule]}))
    if policy is None:
        for one in patches_of(model)[0].installed:
            one.attention.policy = KeepEveryToken()


@torch.no_grad()
def run(
    name: str,
    heads: int,
    size: tuple[int, int, int],
    policy: dict[str, Any] | None,
    parallel: dict[str, Any] | None,
    order: str = "accelerate first",
) -> dict[str, Any]:
    """One forward.

    Args:
        policy: see `accelerate`.
        parallel: arguments of `ContextParallelConfig`; none in one process.
        order: "accelerate first", "parallel first", or "dense": no acceleration at all.
    """
    model, arguments = model_and_inputs(name, heads, size)
    if order == "accelerate first":
        accelerate(model, policy)
    if parallel is not None:
        model.enable_parallelism(config=ContextParallelConfig(**parallel), cp_plan=plan_of(model))
    if order == "parallel first":
        accelerate(model, policy)
    found = {"output": output(model, arguments).numpy()}
    if order != "dense":
        account = summary(model)
        found |= {"reasons": account.dense_reasons, "density": account.sparse_density}
        restore_model(model)
        found["restored"] = output(model, arguments).numpy()
    return found


def run_all(jobs: list[tuple]) -> list[dict[str, Any]]:
    """Several forwards, one after the other; of one that fails, as it does in every process, the error."""
    found: list[dict[str, Any]] = []
    for job in jobs:
        try:
            found.append(run(*job))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"})
    return found


def with_lse(ctx: Any, query: Any, key: Any, value: Any, *options: Any, **more: Any) -> Any:
    """diffusers' forward operator for a ring, on the CPU: output [B, M, H, D] and log-sum-exp [B, M, H]."""
    logits = torch.einsum("bmhd,bnhd->bmhn", query, key) * query.shape[-1] ** -0.5
    return torch.einsum("bmhn,bnhd->bmhd", logits.softmax(-1), value), logits.logsumexp(-1)


def lse_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, _parallel_config: Any = None
) -> torch.Tensor:
    """A backend that can run around a ring, as flash attention's can on a GPU."""
    if _parallel_config is None:
        return with_lse(None, query, key, value)[0]
    return attention_dispatch._templated_context_parallel_attention(
        query, key, value, forward_op=with_lse, backward_op=None, _parallel_config=_parallel_config
    )


def run_around_a_ring(jobs: list[tuple]) -> list[dict[str, Any]]:
    """As `run_all`, on a backend that can."""
    registry, native = attention_dispatch._AttentionBackendRegistry, AttentionBackendName.NATIVE
    kept = registry._backends[native], registry._supported_arg_names[native]
    registry._backends[native] = lse_attention
    registry._supported_arg_names[native] = set(signature(lse_attention).parameters)
    try:
        return run_all(jobs)
    finally:
        registry._backends[native], registry._supported_arg_names[native] = kept


def gradients() -> dict[str, Any]:
    """Of the input, dense and accelerated; and what was counted."""
    found: dict[str, Any] = {}
    for name in ("dense", "accelerated"):
        model, arguments = model_and_inputs("wan", 4, (3, 4, 6))
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        if name == "accelerated":
            accelerate(model, PER_LAYER)
        latent = arguments["hidden_states"].requires_grad_()
        output(model, arguments).square().sum().backward()
        found[name] = latent.grad.numpy()
    return {**found, "reasons": summary(model).dense_reasons}


@torch.no_grad()
def compiled() -> dict[str, Any]:
    """One forward with the blocks compiled, stock and accelerated, and how many graphs those took."""
    found: dict[str, Any] = {}
    for name in ("stock", "accelerated"):
        counter = CompileCounter()
        model, arguments = model_and_inputs("wan", 4, (3, 4, 6))
        if name == "accelerated":
            accelerate(model, PER_LAYER)
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        # The first forward of diffusers' own splitting hook cannot be traced.
        output(model, arguments)
        model.compile_repeated_blocks(fullgraph=True, backend=counter)
        found[name] = {"output": output(model, arguments).numpy(), "graphs": counter.frame_count}
    return found


def refusals() -> list[str]:
    """What is said to heads that do not divide, and to a ring on a backend that knows none."""
    said = []
    for parallel in ({"ulysses_degree": 2}, {"ring_degree": 2}):
        model, arguments = model_and_inputs("wan", 3, (3, 4, 6))
        accelerate(model, PER_HEAD)
        model.enable_parallelism(config=ContextParallelConfig(**parallel))
        try:
            output(model, arguments)
        except ValueError as error:
            said.append(str(error))
    return said


def pipeline(parallel: bool = True) -> dict[str, Any]:
    """The embedded demo, whole, by its own recipe: latents of the last step, and what was counted."""
    pipe = load_pipeline("demo", "cpu")
    pipe.set_progress_bar_config(disable=True)
    accelerate_model(pipe, "demo", block_size=(16, 16))
    if parallel:
        pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    made = pipe(
        "a red circle moving right",
        height=64,
        width=80,
        num_frames=9,
        num_inference_steps=4,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    )
    account = summary(pipe)
    return {
        "output": made.frames.numpy(),
        "reasons": account.dense_reasons,
        "density": account.sparse_density,
    }


def shown() -> dict[str, Any]:
    """What docs/multi-gpu.md shows, on the demo in two processes; what was counted."""
    (text,) = snippets_of(PAGE)
    names: dict[str, Any] = {}
    exec(compile(standing_in(text), str(PAGE), "exec"), names)
    return {"frames": names["video"].shape, "density": summary(names["pipe"]).density}


def everything(jobs: list[tuple], ring_jobs: list[tuple], *more: str) -> dict[str, Any]:
    """All of it, so that processes are started once; `more` names functions above."""
    found: dict[str, Any] = {"jobs": run_all(jobs), "ring": run_around_a_ring(ring_jobs)}
    return found | {name: globals()[name]() for name in more}
