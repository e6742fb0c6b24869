"""LoRA before and after acceleration: loaded, scaled, fused, swapped; no layout outlives its adapters."""

import torch
from pytest import importorskip, mark, raises
from torch._dynamo.testing import CompileCounter

import tiny
from accel import accelerate_model, restore_model, summary
from tiny_wan_pipeline import POOLED, attentions, keep_every_block, latents, recipe, wan_pipeline

importorskip("peft")

LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


def lora(seed, rank=4, prefix="transformer."):
    """The state dict of an adapter of every self-attention, strong enough to change what is chosen."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for block in range(3):
        for layer in LAYERS:
            name = f"{prefix}blocks.{block}.attn1.{layer}"
            weights[f"{name}.lora_A.weight"] = torch.randn(rank, 32, generator=generator)
            weights[f"{name}.lora_B.weight"] = torch.randn(32, rank, generator=generator) / 4
    return weights


def load(pipe):
    pipe.load_lora_weights(lora(1), adapter_name="one")


def load_two(pipe):
    load(pipe)
    pipe.load_lora_weights(lora(2, rank=2), adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.7, 0.4])


def fuse(pipe):
    load(pipe)
    pipe.fuse_lora(lora_scale=0.8)


def fuse_for_good(pipe):
    fuse(pipe)
    pipe.unload_lora_weights()


def unfuse(pipe):
    fuse(pipe)
    pipe.unfuse_lora()


def swap(pipe):
    load(pipe)
    pipe.load_lora_weights(lora(2), adapter_name="one", hotswap=True)


def swap_ranks(pipe):
    pipe.enable_lora_hotswap(target_rank=8)
    load(pipe)
    pipe.load_lora_weights(lora(2, rank=8), adapter_name="one", hotswap=True)


def unload(pipe):
    load(pipe)
    pipe.unload_lora_weights()


TREATMENTS = [load, load_two, fuse, fuse_for_good, unfuse, swap, swap_ranks, unload]


@mark.parametrize("treat", TREATMENTS, ids=lambda treat: treat.__name__)
@mark.parametrize("first", ["lora", "accelerate"])
def test_adapters_before_or_after(treat, first):
    plain = wan_pipeline()
    without = latents(plain, steps=2)
    treat(plain)
    expected = latents(plain, steps=2)
    assert torch.allclose(expected, without, atol=1e-4) == (treat is unload)
    pipe = wan_pipeline()
    if first == "lora":
        treat(pipe)
    keep_every_block(pipe)
    if first == "accelerate":
        treat(pipe)
    torch.testing.assert_close(latents(pipe, steps=2), expected, atol=1e-4, rtol=1e-4)
    assert summary(pipe).sparse_density == 1 and not summary(pipe).never_called
    accelerate_model(pipe, recipe())
    sparse = latents(pipe, steps=2)
    assert not torch.allclose(sparse, expected, atol=1e-4) and summary(pipe).sparse_density < 1
    restore_model(pipe)
    assert torch.equal(latents(pipe, steps=2), expected)


CHANGES = {
    "added": (lambda pipe: None, load),
    "switched off": (load, lambda pipe: pipe.disable_lora()),
    "scaled": (load, lambda pipe: pipe.set_adapters("one", 0.3)),
    "swapped": (load, lambda pipe: pipe.load_lora_weights(lora(2), adapter_name="one", hotswap=True)),
    "swapped to another rank": (
        lambda pipe: (pipe.enable_lora_hotswap(target_rank=8), load(pipe)),
        lambda pipe: pipe.load_lora_weights(lora(2, rank=8), adapter_name="one", hotswap=True),
    ),
    "another active": (
        lambda pipe: (load_two(pipe), pipe.set_adapters("one")),
        lambda pipe: pipe.set_adapters("two"),
    ),
    "fused": (load, lambda pipe: pipe.fuse_lora(lora_scale=0.5)),
    "unfused": (fuse, lambda pipe: pipe.unfuse_lora()),
    "taken out": (load, lambda pipe: pipe.unload_lora_weights()),
}


@mark.parametrize("change", CHANGES)
def test_layouts_end_when_adapters_change_in_the_middle(change):
    before, midway = CHANGES[change]
    pipe = wan_pipeline()
    before(pipe)
    accelerate_model(pipe, recipe(reuse={"steps": 50}))
    attention = attentions(pipe)[0]
    made, choose = [], attention._choose

    def chosen(q, k, context):
        made.append(context.step)
        return choose(q, k, context)

    attention._choose = chosen

    def change_midway(pipe, step, timestep, tensors):
        if step == 2:
            midway(pipe)
        return tensors

    latents(pipe, guidance_scale=1.0, callback_on_step_end=change_midway)
    assert made == [0, 3]


def test_adapters_are_looked_at_only_where_something_is_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "accel.patches.diffusers.forwards.forward.adapter_state", lambda model: asked.append(model) or ()
    )
    pipe = wan_pipeline()
    load(pipe)
    for rest in ({}, {"reuse": {"steps": 2}}):
        assert not asked
        accelerate_model(pipe, recipe(**rest))
        for attention in attentions(pipe):
            # What passes of guidance share is kept from one to the next.
            attention.shares = False
        latents(pipe, steps=2)
    assert len(asked) == 4


def test_a_swap_does_not_recompile():
    torch._dynamo.reset()
    model, plain = tiny.wan(), tiny.wan()
    graphs = CompileCounter()
    for one in (model, plain):
        one.enable_lora_hotswap(target_rank=8)
        one.load_lora_adapter(lora(1, prefix=""), adapter_name="one", prefix=None)
    keep_every_block(model)
    model.compile_repeated_blocks(fullgraph=True, backend=graphs)
    for step in range(3):
        if step:
            for one in (model, plain):
                one.load_lora_adapter(lora(step, 8, ""), adapter_name="one", prefix=None, hotswap=True)
        with torch.no_grad():
            inputs = tiny.inputs(model)
            torch.testing.assert_close(model(**inputs)[0], plain(**inputs)[0], atol=1e-4, rtol=1e-4)
    assert graphs.frame_count == 1


def test_an_adapter_cannot_be_swapped_while_it_is_fused():
    pipe = accelerate_model(wan_pipeline(), recipe(POOLED))
    fuse(pipe)
    with raises(ValueError, match="merged"):
        pipe.load_lora_weights(lora(2), adapter_name="one", hotswap=True)
    assert latents(pipe, steps=2).isfinite().all()
