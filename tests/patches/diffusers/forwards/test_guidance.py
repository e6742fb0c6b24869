"""Guidance of every kind: the same result as with dense attention, and each pass known by its number."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3PAGPipeline, guiders
from diffusers.hooks import LayerSkipConfig, SmoothedEnergyGuidanceConfig
from pytest import mark, param, warns

from accel import accelerate_model, restore_model, summary
from accel.patches.hook import hook_of
from tiny_families import CASES
from tiny_guided import GUIDED, denoise
from tiny_wan_pipeline import POOLED, keep_every_block, recipe


def within(name, **rest):
    return {"guidance_scale": 3.0, f"{name}_start": 0.2, f"{name}_stop": 0.9, **rest}


def cfg(blocks):
    return guiders.ClassifierFreeGuidance(guidance_scale=3.0)


def late_cfg(blocks):
    return guiders.ClassifierFreeGuidance(guidance_scale=3.0, start=0.5)


def apg(blocks):
    return guiders.AdaptiveProjectedGuidance(guidance_scale=3.0)


def slg(blocks, **rest):
    config = LayerSkipConfig([1], fqn=blocks)
    return guiders.SkipLayerGuidance(**within("skip_layer_guidance", skip_layer_config=config, **rest))


def slg_and_late_cfg(blocks):
    return slg(blocks, start=0.5)


def pag(blocks):
    return guiders.PerturbedAttentionGuidance(
        **within("perturbed_guidance", perturbed_guidance_layers=[1], perturbed_guidance_scale=2.0)
    )


class SmoothedEnergyGuidance(guiders.SmoothedEnergyGuidance):
    """diffusers 0.42 forgets to count the passes of this one, and so never blurs anything."""

    def prepare_models(self, denoiser):
        self._count_prepared += 1
        super().prepare_models(denoiser)


def seg(blocks):
    config = SmoothedEnergyGuidanceConfig([1], fqn=blocks)
    return SmoothedEnergyGuidance(**within("seg_guidance", seg_guidance_config=config, seg_blur_sigma=2.0))


# Where diffusers 0.42 fails on the stock model there is nothing to compare with: it cannot perturb Wan's
# attention, and swaps text and image where it skips a block of Qwen-Image's.
GUIDERS = {
    "wan": (cfg, late_cfg, apg, slg, slg_and_late_cfg, seg),
    "qwen-image": (cfg, apg, pag, seg),
}
COMBINATIONS = [
    param(model, guider, id=f"{model}-{guider.__name__}")
    for model, kinds in GUIDERS.items()
    for guider in kinds
]


@mark.parametrize("name, guider", COMBINATIONS)
def test_guidance_equals_that_of_the_dense_model(name, guider):
    guided = GUIDED[name]
    model, scheduler = guided.model(), FlowMatchEulerDiscreteScheduler()
    expected = denoise(guided, model, guider(guided.blocks))
    keep_every_block(model, scheduler=scheduler)
    got = denoise(guided, model, guider(guided.blocks), scheduler)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    accelerate_model(model, recipe(), scheduler=scheduler)
    sparse = denoise(guided, model, guider(guided.blocks), scheduler)
    assert summary(model).sparse_density < 1 and not torch.equal(sparse, expected)
    restore_model(model)
    assert torch.equal(denoise(guided, model, guider(guided.blocks), scheduler), expected)


def test_perturbed_attention_is_left_to_the_guider():
    guided, scheduler = GUIDED["qwen-image"], FlowMatchEulerDiscreteScheduler()
    model = keep_every_block(guided.model(), scheduler=scheduler)
    denoise(guided, model, pag(guided.blocks), scheduler)
    sites = summary(model).sites
    assert [site.dense_reasons for site in sites] == [
        {}, {"intercepted by AttentionScoreSkipFunctionMode": 3}, {},
    ]  # fmt: skip
    assert [site.sparse_calls for site in sites] == [15, 12, 15]


def test_perturbed_attention_is_left_to_the_guider_in_compiled_blocks():
    torch._dynamo.reset()
    guided, scheduler = GUIDED["qwen-image"], FlowMatchEulerDiscreteScheduler()
    model = guided.model()
    expected = denoise(guided, model, pag(guided.blocks), steps=3)
    keep_every_block(model, scheduler=scheduler)
    model.compile_repeated_blocks(backend="eager")
    got = denoise(guided, model, pag(guided.blocks), scheduler, steps=3)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    # In traced code the stock attention takes the place of ours, where nobody counts.
    assert [site.calls for site in summary(model).sites] == [7, 6, 7]


def test_smoothed_energy_guidance_sees_tokens_in_their_places():
    guided, scheduler = GUIDED["wan"], FlowMatchEulerDiscreteScheduler()
    model = guided.model()
    expected = denoise(guided, model, seg(guided.blocks), scheduler)
    everything = {**POOLED, "order": {"kind": "hilbert"}, "select": {"kind": "top_k", "density": 1.0}}
    accelerate_model(model, recipe(everything, reuse={"steps": 2}), scheduler=scheduler)
    torch.testing.assert_close(
        denoise(guided, model, seg(guided.blocks), scheduler), expected, atol=1e-4, rtol=1e-4
    )
    assert summary(model).sparse_density == 1


def test_a_pipeline_that_sets_processors_of_its_own_for_each_run():
    case = CASES["sd3"]
    pipe = StableDiffusion3PAGPipeline(
        transformer=case.model(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(
            ["vae", *(f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))]
        ),
        pag_applied_layers="blocks.1",
    )
    pipe.set_progress_bar_config(disable=True)

    def images():
        texts = torch.Generator().manual_seed(1)
        sizes = {
            "prompt_embeds": (1, 21, 16),
            "pooled_prompt_embeds": (1, case.config["pooled_projection_dim"]),
        }
        embeds = {
            sign + name: torch.randn(*size, generator=texts)
            for name, size in sizes.items()
            for sign in ("", "negative_")
        }
        noise = torch.Generator().manual_seed(0)
        loop = {"num_inference_steps": 3, "guidance_scale": 3.0, "pag_scale": 2.0, "output_type": "latent"}
        return pipe(**embeds, **loop, height=192, width=224, generator=noise).images

    expected = images()
    keep_every_block(pipe)
    with warns(UserWarning, match="another processor") as caught:
        outputs = [images(), images()]
    assert len(caught) == 1
    for got in outputs:
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    sites = summary(pipe).sites
    assert [site.dense_reasons for site in sites] == [{}, {"processor replaced since": 6}, {}]
    assert all(site.in_force for site in sites)
    restore_model(pipe)
    assert torch.equal(images(), expected)


# (text, how often it came before in the step) -> number; text 0 is the conditional one. In step 2 diffusers
# gives the skip pass the unconditional text, and in the steps after it the conditional one.
PASSES = {
    cfg: [{(0, 0): 0, (1, 0): 1}] * 6,
    late_cfg: [{(0, 0): 0}] * 3 + [{(0, 0): 0, (1, 0): 1}] * 3,
    slg: [{(0, 0): 0, (1, 0): 1}] * 2 + [{(0, 0): 0, (1, 0): 1, (0, 1): 2}] * 3 + [{(0, 0): 0, (1, 0): 1}],
    slg_and_late_cfg: [{(0, 0): 0}] * 2
    + [{(0, 0): 0, (1, 0): 1}]
    + [{(0, 0): 0, (1, 0): 1, (0, 1): 2}] * 2
    + [{(0, 0): 0, (1, 0): 1}],
}


@mark.parametrize("guider", PASSES, ids=lambda guider: guider.__name__)
def test_each_pass_is_known_by_its_number(guider):
    guided, scheduler = GUIDED["wan"], FlowMatchEulerDiscreteScheduler()
    model = keep_every_block(guided.model(), scheduler=scheduler)
    texts, told = [], [{} for _ in range(6)]

    def note(module, args, kwargs):
        context = hook_of(model).forward.context
        texts.append(kwargs["encoder_hidden_states"])
        text = 0 if texts[-1] is texts[0] else 1
        before = sum(seen == text for seen, _ in told[context.step])
        told[context.step][text, before] = context.branch

    model.register_forward_pre_hook(note, with_kwargs=True)
    denoise(guided, model, guider(guided.blocks), scheduler)
    assert told == PASSES[guider]
