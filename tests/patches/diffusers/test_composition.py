"""What people do to a model besides accelerating it: each compared with dense under the same treatment."""

import copy
import pickle
import subprocess
import sys
from functools import partial

import torch
from diffusers import AttentionBackendName, WanTransformer3DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from pytest import mark, raises
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import tiny
from accel import accelerate_model, restore_model, summary
from accel.recipe.recipe import Recipe

RADIAL = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "radial", "decay": 0.6, "block_size": [16, 16]}}]}
)


@torch.no_grad()
def output(model):
    return model(**tiny.inputs(model))[0]


def fuse(model):
    model.fuse_qkv_projections()


def offload(model):
    model.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")


def cast(model):
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


@mark.parametrize("treat", [fuse, offload, cast], ids=lambda f: f.__name__)
@mark.parametrize("first", ["treat", "accelerate"])
def test_treatment_before_or_after(treat, first):
    plain, fast = tiny.wan(), tiny.wan()
    treat(plain)
    if first == "treat":
        treat(fast)
        accelerate_model(fast, RADIAL)
    else:
        accelerate_model(fast, RADIAL)
        treat(fast)
    sparse = output(fast)
    assert summary(fast).density < 1 and sparse.isfinite().all()
    restore_model(fast)
    assert torch.equal(output(fast), output(plain))


def test_lora_loaded_before_and_after():
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    for late in (False, True):
        torch.manual_seed(3)
        fast = tiny.wan()
        if late:
            accelerate_model(fast, RADIAL)
        torch.manual_seed(4)
        fast.add_adapter(config)
        if not late:
            accelerate_model(fast, RADIAL)
        sparse = output(fast)
        assert summary(fast).density < 1
        restore_model(fast)
        assert not torch.equal(output(fast), sparse)


def test_deepcopy_is_accelerated_on_its_own():
    model = accelerate_model(tiny.wan(), RADIAL)
    twin = copy.deepcopy(model)
    assert torch.equal(output(twin), output(model))
    assert summary(twin).calls == summary(model).calls == 3
    restore_model(twin)
    assert summary(model).sites and not torch.equal(output(twin), output(model))


def test_pickle_travels_to_another_process(tmp_path):
    model = accelerate_model(tiny.wan(), RADIAL)
    expected = output(model)
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps((model, tiny.inputs(model), expected)))
    code = (
        "import pickle, sys, torch; torch.set_grad_enabled(False)\n"
        "model, inputs, expected = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert torch.allclose(model(**inputs)[0], expected, atol=1e-6)\n"
        "import accel; assert accel.summary(model).density < 1; accel.restore_model(model)\n"
        "assert not torch.allclose(model(**inputs)[0], expected, atol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_saved_model_is_stock(tmp_path):
    model = tiny.wan()
    expected = output(model)
    accelerate_model(model, RADIAL)
    model.save_pretrained(tmp_path)
    loaded = WanTransformer3DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(output(loaded), expected)
    assert type(loaded.blocks[0].attn1.processor) is type(tiny.wan().blocks[0].attn1.processor)


def test_a_backend_chosen_before_serves_the_dense_calls_and_survives():
    model = tiny.wan()
    for block in model.blocks:
        block.attn1.set_attention_backend("_native_math")
    accelerate_model(model, RADIAL)
    slots = [block.attn1.processor.slot for block in model.blocks]
    assert {slot.dense.name for slot in slots} == {AttentionBackendName._NATIVE_MATH}
    restore_model(model)
    assert model.blocks[0].attn1.processor._attention_backend == AttentionBackendName._NATIVE_MATH


def test_a_backend_chosen_later_serves_the_dense_calls():
    model = accelerate_model(tiny.wan(), RADIAL, method="dense")
    active = _AttentionBackendRegistry._active_backend
    try:
        model.set_attention_backend("_native_math")
    finally:
        # diffusers makes this choice process-wide; other tests must not inherit it.
        _AttentionBackendRegistry.set_active_backend(active)
    output(model)
    assert summary(model).dense_reasons == {"dense by recipe": 3}
    restore_model(model)
    assert model.blocks[0].attn1.processor._attention_backend == AttentionBackendName._NATIVE_MATH


def test_diffusers_state_is_left_alone():
    active, members = _AttentionBackendRegistry._active_backend, list(AttentionBackendName)
    model = accelerate_model(tiny.wan(), RADIAL)
    output(model)
    assert _AttentionBackendRegistry._active_backend == active
    assert list(AttentionBackendName) == members
    with raises(ValueError):
        AttentionBackendName("sparse_accel")


def test_a_processor_set_by_the_user_is_reported_and_kept():
    model = accelerate_model(tiny.wan(), RADIAL)
    theirs = type(model.blocks[1].attn1.processor.original)()
    model.blocks[1].attn1.set_processor(theirs)
    output(model)
    assert [site.in_force for site in summary(model).sites] == [True, False, True]
    assert "replaced by someone else since: blocks.1.attn1" in str(summary(model))
    restore_model(model)
    assert model.blocks[1].attn1.processor is theirs


def test_gradients_run_dense_with_that_reason():
    model = tiny.wan()
    inputs = tiny.inputs(model)
    latent = inputs["hidden_states"].requires_grad_()
    accelerate_model(model, RADIAL)
    model(**inputs)[0].sum().backward()
    assert latent.grad.isfinite().all()
    assert summary(model).dense_reasons == {"gradients are recorded": 3}


@mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@mark.parametrize("part", ["to_q", "to_k", "to_v"])
def test_the_gradient_of_one_projection_is_the_dense_models(part, compiled):
    gradients = []
    for accelerated in (False, True):
        model = tiny.wan(num_layers=1)
        weight = getattr(model.blocks[0].attn1, part).weight.requires_grad_(True)
        if accelerated:
            accelerate_model(model, RADIAL)
        if compiled:
            torch._dynamo.reset()
            model.compile_repeated_blocks(backend="aot_eager")
        model(**tiny.inputs(model))[0].square().sum().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)
    assert compiled or summary(model).dense_reasons == {"gradients are recorded": 1}


@mark.parametrize("reentrant", [False, True], ids=["diffusers", "reentrant"])
def test_gradient_checkpoints_see_the_same_attention_twice(reentrant):
    gradients = []
    for accelerated in (False, True):
        model = tiny.wan(num_layers=2).requires_grad_(True).train()
        model.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=reentrant))
        if accelerated:
            accelerate_model(model, RADIAL)
        model(**tiny.inputs(model))[0].square().sum().backward()
        gradients.append(model.patch_embedding.weight.grad)
    assert torch.equal(*gradients)
    with torch.no_grad():
        model(**tiny.inputs(model))
    assert summary(model).dense_reasons == {"gradients are recorded": 4}


def test_checkpoints_of_the_users_own_see_the_same_attention_twice():
    gradients = []
    for accelerate in (lambda model: model, lambda model: accelerate_model(model, RADIAL)):
        model = accelerate(tiny.wan(num_layers=2)).requires_grad_(True)
        for block in model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=True)
        model(**tiny.inputs(model))[0].square().sum().backward()
        gradients.append(model.patch_embedding.weight.grad)
    assert torch.equal(*gradients)


def test_forward_mode_derivatives_are_the_dense_models():
    derivatives = []
    for accelerated in (False, True):
        model = tiny.wan(num_layers=1)
        if accelerated:
            accelerate_model(model, RADIAL)
        inputs = tiny.inputs(model, frames=3)
        latent = inputs["hidden_states"]
        with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            inputs["hidden_states"] = forward_ad.make_dual(latent, latent)
            derivatives.append(forward_ad.unpack_dual(model(**inputs)[0]).tangent)
    torch.testing.assert_close(*derivatives)
    assert summary(model).dense_reasons == {"gradients are recorded": 1}


@torch.no_grad()
def test_a_default_device_is_no_matter():
    pooled = {"method": "compose", "score": {"kind": "pooled"}, "select": {"kind": "top_k", "density": 0.4}}
    policy = {**pooled, "order": {"kind": "hilbert"}}
    recipe = Recipe.model_validate({"rules": [{"match": "*", "policy": policy}]})
    model = tiny.wan()
    inputs = tiny.inputs(model, frames=3)
    with torch.device("meta"):
        accelerate_model(model, recipe)
        model(**inputs)
    account = summary(model)
    assert account.calls == 3 and not account.dense_reasons
