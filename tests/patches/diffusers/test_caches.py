"""Caches that leave calls out: results as with dense attention, honest counts, layouts in their steps."""

import itertools
import math
import warnings

import torch
from diffusers import hooks
from diffusers.utils import logging
from pytest import fixture, importorskip, mark

from accel import accelerate_model, restore_model, summary
from accel.kernels.layout.layout import BlockLayout
from tiny_families import CASES, output
from tiny_wan_pipeline import (
    KeepEverything,
    attentions,
    keep_every_block,
    latents,
    recipe,
    wan_pipeline,
)

STEPS = 8


def timestep_of(pipe):
    return lambda: int(pipe._current_timestep)


CACHES = {
    "first-block": lambda pipe: hooks.FirstBlockCacheConfig(threshold=0.5),
    "taylorseer": lambda pipe: hooks.TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=2,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=["blocks.*attn1"],
    ),
    "taylorseer-lite": lambda pipe: hooks.TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=2,
        taylor_factors_dtype=torch.float32,
        use_lite_mode=True,
    ),
    "mag": lambda pipe: hooks.MagCacheConfig(
        mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS, threshold=0.5
    ),
    "faster": lambda pipe: hooks.FasterCacheConfig(
        spatial_attention_timestep_skip_range=(-1, 900),
        attention_weight_callback=lambda module: 0.5,
        is_guidance_distilled=True,
        current_timestep_callback=timestep_of(pipe),
    ),
    "pyramid-broadcast": lambda pipe: hooks.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=timestep_of(pipe),
    ),
}


@fixture(autouse=True)
def quiet():
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        # What is warned about here would be wrong: the calls are left out on purpose.
        warnings.filterwarnings("error", message=".*never called.*")
        yield
    logging.set_verbosity(level)


@fixture(params=CACHES)
def config(request):
    return CACHES[request.param]


def cached(config):
    pipe = wan_pipeline()
    pipe.transformer.enable_cache(config(pipe))
    return pipe


def executed_calls(pipe):
    """The self-attention calls of one generation, counted where their queries are projected."""
    calls = []
    handles = [
        block.attn1.to_q.register_forward_hook(lambda *_: calls.append(1))
        for block in pipe.transformer.blocks
    ]
    latents(pipe, STEPS)
    for handle in handles:
        handle.remove()
    return len(calls)


@mark.parametrize("first", ["cache", "accelerate"])
def test_a_cache_before_or_after(config, first):
    plain = wan_pipeline()
    without = latents(plain, STEPS)
    plain.transformer.enable_cache(config(plain))
    expected = latents(plain, STEPS)
    assert not torch.equal(expected, without)
    pipe = wan_pipeline()
    if first == "cache":
        pipe.transformer.enable_cache(config(pipe))
    keep_every_block(pipe)
    if first == "accelerate":
        pipe.transformer.enable_cache(config(pipe))
    torch.testing.assert_close(latents(pipe, STEPS), expected, atol=1e-4, rtol=1e-4)
    account = summary(pipe)
    assert account.sparse_density == 1 and not account.never_called
    assert account.calls == executed_calls(plain) < 2 * 3 * STEPS
    accelerate_model(pipe, recipe())
    assert not torch.equal(latents(pipe, STEPS), expected) and summary(pipe).sparse_density < 1
    restore_model(pipe)
    assert torch.equal(latents(pipe, STEPS), expected)
    pipe.transformer.disable_cache()
    assert torch.equal(latents(pipe, STEPS), without)


def test_a_disabled_cache_leaves_the_acceleration_whole(config):
    never = accelerate_model(wan_pipeline(), recipe())
    expected = latents(never, STEPS)
    pipe = accelerate_model(cached(config), recipe())
    latents(pipe, STEPS)
    pipe.transformer.disable_cache()
    before = summary(pipe).calls
    assert torch.equal(latents(pipe, STEPS), expected)
    assert summary(pipe).calls - before == 2 * 3 * STEPS


def test_layouts_serve_the_steps_they_were_made_for(config):
    pipe = accelerate_model(cached(config), recipe(reuse={"steps": 3}))
    for attention in attentions(pipe):
        attention.policy = Numbered()
    served = watch_layouts(attentions(pipe))
    latents(pipe, STEPS)
    latents(pipe, STEPS)
    assert any(now is not then for now, then in served)
    for now, then in served:
        assert then.generation == now.generation and 0 <= now.step - then.step < 3
        assert then.branch == now.branch
    assert {now.step for now, _ in served} <= set(range(STEPS))


class Numbered(KeepEverything):
    """A policy whose layouts can be told apart: the first row of blocks is the layout's number in binary."""

    def __init__(self):
        self.numbers = itertools.count()

    def layout(self, q, k, grid, context):
        blocks = math.ceil(q.shape[2] / 16)
        keep, number = torch.eye(blocks, dtype=torch.bool), next(self.numbers)
        keep[0, 1:] = torch.tensor([bool(number >> bit & 1) for bit in range(blocks - 1)])
        return BlockLayout.from_mask(keep[None, None], (16, 16), q.shape[2], k.shape[2])


def watch_layouts(watched):
    """Of every call from now on: its context, and the one its layout was made in, told by the blocks."""
    served = []

    def watch(cache):
        real, made = cache.layout, []

        def layout(call, make, tokens):
            context = call.context

            def noted():
                fresh = make()
                made.append((context, fresh.to_mask()))
                return fresh

            mask = real(call, noted, tokens).to_mask()
            served.append(
                (context, next(then for then, blocks in reversed(made) if torch.equal(blocks, mask)))
            )
            return real(call, make)

        cache.layout = layout

    for attention in watched:
        watch(attention.layouts)
    return served


def test_acceleration_while_a_cache_is_warm_tells_nothing_wrong(config):
    pipe = cached(config)

    def accelerate_midway(pipe, step, timestep, tensors):
        if step == 4:
            accelerate_model(pipe, recipe())
        return tensors

    assert latents(pipe, STEPS, callback_on_step_end=accelerate_midway).isfinite().all()
    steps = {step for attention in attentions(pipe) for step in attention.record.sparse}
    assert steps and steps <= {5, 6, 7}


@mark.parametrize("first", ["cache", "accelerate"])
@torch.no_grad()
def test_sea_cache_before_or_after(first):
    case, config = CASES["cosmos3"], hooks.SeaCacheConfig(threshold=10.0)
    arguments = case.arguments((3, 8, 6))

    def outputs(model):
        levels = [1 - step / 6 for step in range(6)]
        steps = []
        for step, level in enumerate(levels):
            timesteps = torch.full_like(arguments["vision_timesteps"], 1000 * level)
            with model.cache_context("cond", step_index=step, num_inference_steps=6, sigma=level):
                steps.append(output(model, {**arguments, "vision_timesteps": timesteps}))
        return torch.stack(steps)

    plain, model = case.model(), case.model()
    without = outputs(plain)
    plain.enable_cache(config)
    expected = outputs(plain)
    assert not torch.equal(expected, without)
    if first == "cache":
        model.enable_cache(config)
    keep_every_block(model)
    if first == "accelerate":
        model.enable_cache(config)
    torch.testing.assert_close(outputs(model), expected, atol=1e-4, rtol=1e-4)
    assert 0 < summary(model).calls < 6 * case.sites and not summary(model).never_called
    restore_model(model)
    model._reset_stateful_cache()
    assert torch.equal(outputs(model), expected)
    model.disable_cache()
    assert torch.equal(outputs(model), without)


@mark.parametrize("first", ["cache", "accelerate"])
def test_cache_dit_before_or_after(first):
    cache_dit = importorskip("cache_dit")

    def enable(pipe):
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            residual_diff_threshold=0.9,
            max_warmup_steps=2,
            enable_separate_cfg=True,
        )
        cache_dit.enable_cache(pipe, cache_config=config)

    plain, pipe = wan_pipeline(), wan_pipeline()
    without = latents(plain, STEPS)
    enable(plain)
    expected, calls = latents(plain, STEPS), executed_calls(plain)
    cache_dit.disable_cache(plain)
    if first == "cache":
        enable(pipe)
    keep_every_block(pipe)
    if first == "accelerate":
        enable(pipe)
    torch.testing.assert_close(latents(pipe, STEPS), expected, atol=1e-4, rtol=1e-4)
    assert summary(pipe).calls == calls < 2 * 3 * STEPS and not summary(pipe).never_called
    accelerate_model(pipe, recipe())
    assert not torch.equal(latents(pipe, STEPS), expected)
    restore_model(pipe)
    assert torch.equal(latents(pipe, STEPS), expected)
    cache_dit.disable_cache(pipe)
    assert torch.equal(latents(pipe, STEPS), without)
