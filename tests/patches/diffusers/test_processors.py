"""Whatever rebuilds, copies or replaces a processor of an accelerated model works as on the stock one."""

import copy
import pickle
import warnings

import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from pytest import fixture, mark, warns

from accel import accelerate_model, accelerated, restore_model, summary
from accel.patches.models import find_sites
from tiny_families import CASES
from tiny_inputs import noise
from tiny_wan_pipeline import recipe

GRID = {"flux": (1, 8, 12), "sd3": (1, 8, 12), "cogvideox": (3, 6, 8), "wan": (3, 6, 8)}


def output(model, name, **changes):
    with torch.no_grad():
        return model(**{**CASES[name].inputs(1, *GRID[name]), **changes}, return_dict=False)[0]


def processors(model):
    return {name: type(processor).__name__ for name, processor in model.attn_processors.items()}


def load_flux(model):
    """Load a random IP-Adapter into a Flux transformer; the arguments that use it."""
    width, inner = model.config.joint_attention_dim, model.inner_dim
    generator = torch.Generator().manual_seed(3)

    def weight(*shape):
        return torch.randn(*shape, generator=generator)

    attention = {
        f"{block}.to_{kind}_ip.{part}": weight(*((inner, width) if part == "weight" else (inner,)))
        for block in range(len(model.transformer_blocks))
        for kind in "kv"
        for part in ("weight", "bias")
    }
    projection = {
        "proj.weight": weight(4 * width, 8),
        "proj.bias": weight(4 * width),
        "norm.weight": weight(width),
        "norm.bias": weight(width),
    }
    model._load_ip_adapter_weights(
        [{"ip_adapter": attention, "image_proj": projection}], low_cpu_mem_usage=False
    )
    return {"joint_attention_kwargs": {"ip_adapter_image_embeds": [noise(1, 1, 8)]}}


def unload(pipeline, model):
    """Unload the IP-Adapter of a model by its pipeline's method."""
    parts = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    if pipeline is StableDiffusion3Pipeline:
        parts |= dict.fromkeys(("text_encoder_3", "tokenizer_3"))
    pipeline(**parts, transformer=model).unload_ip_adapter()


@fixture(params=["flux", "sd3", "cogvideox", "wan"])
def name(request):
    return request.param


def test_a_processor_rebuilt_by_its_class_is_the_stock_one(name):
    model = CASES[name].model()
    expected, before = output(model, name), processors(model)
    accelerate_model(model, recipe())
    model.set_attn_processor({key: value.__class__() for key, value in model.attn_processors.items()})
    assert processors(model) == before
    with warns(UserWarning, match="another processor") as told:
        assert torch.equal(output(model, name), expected)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output(model, name)
    sites = len(find_sites(model))
    assert summary(model).dense_reasons == {"processor replaced since": 2 * sites}
    restore_model(model)
    assert torch.equal(output(model, name), expected) and processors(model) == before
    accelerate_model(model, recipe())
    assert not torch.equal(output(model, name), expected) and not summary(model).dense_reasons


def test_a_flux_ip_adapter_loads_into_an_accelerated_model():
    stock, model = CASES["flux"].model(), accelerate_model(CASES["flux"].model(), recipe())
    plain, image = output(stock, "flux"), load_flux(stock)
    output(model, "flux")
    load_flux(model)
    assert processors(model) == processors(stock)
    with warns(UserWarning, match="another processor"):
        assert torch.equal(output(model, "flux", **copy.deepcopy(image)), output(stock, "flux", **image))
    restore_model(model)
    unload(FluxPipeline, model)
    assert torch.equal(output(model, "flux"), plain)


def test_a_flux_ip_adapter_unloads_from_an_accelerated_model():
    stock = CASES["flux"].model()
    plain, before = output(stock, "flux"), processors(stock)
    model = CASES["flux"].model()
    image = load_flux(model)
    expected = output(model, "flux", **copy.deepcopy(image))
    accelerate_model(model, recipe())
    sparse = output(model, "flux", **copy.deepcopy(image))
    assert not torch.equal(sparse, expected) and not summary(model).dense_reasons
    restore_model(model)
    assert torch.equal(output(model, "flux", **copy.deepcopy(image)), expected)
    accelerate_model(model, recipe())
    unload(FluxPipeline, model)
    assert_stock(model, "flux", before, plain)


def assert_stock(model, family, before, plain):
    """The stock processors are back and dense, with a warning; restoring changes nothing more."""
    assert processors(model) == before
    with warns(UserWarning, match="another processor"):
        assert torch.equal(output(model, family), plain)
    restore_model(model)
    assert torch.equal(output(model, family), plain)


def load_sd3(model):
    width = model.inner_dim
    projection = IPAdapterTimeImageProjection(
        embed_dim=8, output_dim=width, hidden_dim=width, depth=1, dim_head=8, heads=2, num_queries=4
    )
    model.image_proj = projection.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0

    made = {}
    for key in model.attn_processors:
        made[key] = SD3IPAdapterJointAttnProcessor2_0(
            hidden_size=width,
            ip_hidden_states_dim=width,
            head_dim=model.config.attention_head_dim,
            timesteps_emb_dim=width,
        ).requires_grad_(False)
        for parameter in made[key].parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.set_attn_processor(made)


def test_an_sd3_ip_adapter_comes_and_goes():
    model = CASES["sd3"].model()
    plain, before = output(model, "sd3"), processors(model)
    accelerate_model(model, recipe())
    output(model, "sd3")
    load_sd3(model)
    unload(StableDiffusion3Pipeline, model)
    assert_stock(model, "sd3", before, plain)


@mark.parametrize("family", ["cogvideox", "sd3", "flux", "wan"])
def test_fused_projections_come_and_go(family):
    # SD3's fused processor serves no block that has a second attention.
    model = CASES[family].model(**({"dual_attention_layers": ()} if family == "sd3" else {}))
    plain, before = output(model, family), processors(model)
    accelerate_model(model, recipe())
    sparse = output(model, family)
    model.fuse_qkv_projections()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output(model, family)
    model.unfuse_qkv_projections()
    assert torch.equal(output(model, family), sparse)
    model.fuse_qkv_projections()
    restore_model(model)
    model.unfuse_qkv_projections()
    assert torch.equal(output(model, family), plain)
    accelerate_model(model, recipe())
    assert torch.equal(output(model, family), sparse)
    restore_model(model)
    assert torch.equal(output(model, family), plain) and processors(model) == before


def test_processors_kept_from_an_accelerated_model_are_stock_in_effect():
    model = CASES["wan"].model()
    plain, before = output(model, "wan"), processors(model)
    accelerate_model(model, recipe())
    sparse, kept = output(model, "wan"), dict(model.attn_processors)
    restore_model(model)
    model.set_attn_processor(dict(kept))
    assert torch.equal(output(model, "wan"), plain)
    accelerate_model(model, recipe())
    assert torch.equal(output(model, "wan"), sparse) and not summary(model).dense_reasons
    restore_model(model)
    assert processors(model) == before and torch.equal(output(model, "wan"), plain)


@mark.parametrize("how", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_processor_stays_routed(how):
    model = accelerate_model(CASES["flux"].model(), recipe())
    processor = find_sites(model)[0].module.processor
    clone = how(processor)
    assert type(clone) is type(processor) and type(clone.original) is type(processor.original)


def test_an_outer_acceleration_leaves_what_was_set_inside_an_inner_one():
    model = accelerate_model(CASES["flux"].model(), recipe())
    with accelerated(model, recipe(schedule={"dense_steps": 1.0})):
        image = load_flux(model)
        inside = processors(model)
    assert {key for key, value in processors(model).items() if "IPAdapter" in value} == {
        key for key, value in inside.items() if "IPAdapter" in value
    }
    with warns(UserWarning, match="another processor"):
        output(model, "flux", **image)
    assert summary(model).sparse_density < 1
