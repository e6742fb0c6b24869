"""What people do to a language model besides accelerating it, and what acceleration must not do to others."""

import copy
import pickle
import subprocess
import sys

import torch
from pytest import fixture, mark, raises, skip, warns
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import tiny
import tiny_language
from accel import accelerate_model, accelerated, restore_model, summary
from accel.accelerate import patches_of
from accel.apply.summary import summarize
from accel.recipe.errors import RecipeError
from accel.recipe.recipe import Recipe
from keep_everything import DENSE, keep_everything


def hip(density=0.1):
    policy = {"method": "hip", "density": density, "sink": 16, "window": 16, "block_size": [16, 16]}
    return Recipe.model_validate({"schedule": {"min_tokens": 0}, "rules": [{"match": "*", "policy": policy}]})


pytestmark = mark.usefixtures("inference")


@fixture
def model():
    return tiny_language.llama()


def logits(model, length=150):
    return model(tiny_language.tokens(length)).logits


@mark.parametrize("build", [tiny_language.llama, tiny_language.gpt_oss, tiny_language.gemma2])
def test_a_whole_compiled_model_is_one_graph(build):
    torch._dynamo.reset()
    model = accelerate_model(build(num_hidden_layers=6), hip())
    expected = logits(model)
    graphs = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=graphs)
    assert torch.equal(logits(compiled), expected)
    assert graphs.frame_count == 1
    assert summary(compiled).calls == 12 and not summary(compiled).never_called


def test_compiled_code_sees_the_next_recipe():
    torch._dynamo.reset()
    model = accelerate_model(tiny_language.llama(), hip())
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    sparse = logits(compiled)
    restore_model(model)
    dense = logits(model)
    assert torch.allclose(logits(compiled), dense, atol=1e-5) and not torch.allclose(sparse, dense)
    accelerate_model(model, hip())
    assert torch.equal(logits(compiled), sparse)


def test_two_models_follow_two_recipes(model):
    other = accelerate_model(tiny_language.llama(), hip(0.9))
    bystander = tiny_language.llama()
    expected = logits(bystander)
    accelerate_model(model, hip())
    assert summary(model).calls == summary(other).calls == 0
    logits(model), logits(other)
    assert summary(model).density < summary(other).density
    assert torch.equal(logits(bystander), expected) and not patches_of(bystander)
    restore_model(model)
    assert all(site.in_force for site in summary(other).sites)


def test_deepcopy_is_accelerated_on_its_own(model):
    accelerate_model(model, hip())
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin), logits(model))
    assert summary(twin).calls == summary(model).calls == 2
    restore_model(twin)
    assert all(site.in_force for site in summary(model).sites) and not patches_of(twin)
    assert not torch.equal(logits(twin), logits(model))


def test_pickle_travels_to_another_process(model, tmp_path):
    try:
        pickle.dumps(model)
    except AttributeError as error:
        skip(f"this release's own model cannot be pickled beside the installed kernels: {error}")
    accelerate_model(model, hip())
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps((model, tiny_language.tokens(150), logits(model))))
    code = (
        "import pickle, sys, torch; torch.set_grad_enabled(False); torch.set_num_threads(1)\n"
        "model, ids, expected = pickle.load(open(sys.argv[1], 'rb'))\n"
        "assert torch.allclose(model(ids).logits, expected, atol=1e-6)\n"
        "import accel; assert accel.summary(model).density < 1; accel.restore_model(model)\n"
        "assert not torch.allclose(model(ids).logits, expected, atol=1e-6)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_saved_model_is_stock(model, tmp_path):
    expected = logits(model)
    accelerate_model(model, hip())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    torch.testing.assert_close(logits(loaded), expected)


def test_importing_registers_nothing():
    code = (
        "import accel, accel.patches.transformers.attention as ours\n"
        "from transformers import AttentionInterface, AttentionMaskInterface\n"
        "assert ours.NAME not in AttentionInterface._global_mapping\n"
        "assert ours.NAME not in AttentionMaskInterface._global_mapping\n"
    )
    run(code)


def test_accelerating_diffusers_imports_no_language_model_code():
    code = (
        "import sys, accel, torch\n"
        "from accel.accelerate import supported_models\n"
        "assert supported_models(torch.nn.Linear(2, 2)) == {}\n"
        "assert 'transformers' not in sys.modules\n"
    )
    run(code)


def run(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_text_encoder_of_a_pipeline_is_never_touched():
    class Pipeline:
        transformer, text_encoder, scheduler = tiny.wan(), tiny_language.qwen2(), None

    pipe = Pipeline()
    before = dict(vars(pipe.text_encoder))
    accelerate_model(pipe, DENSE)
    assert {site.site.split(".")[0] for site in summary(pipe).sites} == {"transformer"}
    assert pipe.text_encoder.config._attn_implementation == "sdpa"
    assert dict(vars(pipe.text_encoder)) == before and not patches_of(pipe.text_encoder)


def test_applying_again_replaces(model):
    expected = logits(model)
    accelerate_model(model, hip())
    accelerate_model(model, DENSE)
    assert len(model._forward_pre_hooks) == 1 and torch.equal(logits(model), expected)
    restore_model(model)
    assert not model._forward_pre_hooks and model.config._attn_implementation == "sdpa"


def test_an_account_read_after_restoring_calls_nothing_replaced(model):
    with accelerated(model, hip()):
        logits(model)
        patches = patches_of(model)
    assert "replaced" not in str(summarize(patches))


def test_restored_when_the_block_raises(model):
    with raises(RuntimeError, match="boom"), accelerated(model, hip()):
        raise RuntimeError("boom")
    assert model.config._attn_implementation == "sdpa" and not model._forward_pre_hooks


def test_an_implementation_the_user_sets_is_reported_and_kept(model):
    accelerate_model(model, hip())
    model.set_attn_implementation("eager")
    with warns(UserWarning, match="'eager' was set after accelerate_model and runs every call") as warned:
        logits(model)
        logits(model)
    assert len(warned) == 1
    assert summary(model).dense_reasons == {"attention implementation set since": 4}
    assert "replaced by someone else since: model.layers.0-1.self_attn" in str(summary(model))
    restore_model(model)
    assert model.config._attn_implementation == "eager"


def test_layers_a_recipe_leaves_alone_run_dense(model):
    recipe = Recipe.model_validate(
        {
            "schedule": {"min_tokens": 0},
            "rules": [{"match": "*.1.self_attn", "policy": {"method": "dense"}}],
        }
    )
    expected = logits(model)
    accelerate_model(model, recipe)
    assert torch.equal(logits(model), expected)
    assert summary(model).calls == 1 and summary(model).untouched == ("model.layers.0.self_attn",)


def test_gradients_run_dense_with_that_reason(model):
    accelerate_model(model, hip())
    with torch.enable_grad():
        model.requires_grad_(True)
        logits(model, 40).sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.isfinite().all()
    assert summary(model).dense_reasons == {"gradients are recorded": 2}


@mark.parametrize("part", ["k_proj", "v_proj"])
def test_the_gradient_of_one_projection_is_the_dense_models(part, model):
    weight = getattr(model.model.layers[0].self_attn, part).weight.requires_grad_(True)
    gradients = []
    for accelerate in (lambda model: None, lambda model: accelerate_model(model, hip())):
        accelerate(model)
        with torch.enable_grad():
            gradients += torch.autograd.grad(logits(model, 40).square().sum(), weight)
    assert torch.equal(*gradients)


@mark.parametrize("reentrant", [False, True])
def test_gradient_checkpoints_see_the_same_attention_twice(reentrant):
    gradients = []
    for accelerate in (lambda model: model, lambda model: accelerate_model(model, hip())):
        model = accelerate(tiny_language.llama()).requires_grad_(True).train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with torch.enable_grad():
            logits(model).square().sum().backward()
        gradients.append(model.model.embed_tokens.weight.grad)
    assert torch.equal(*gradients)
    assert summary(model).dense_reasons == {"gradients are recorded": 4}
    logits(model)
    embedded = model.get_input_embeddings()(tiny_language.tokens(150)).requires_grad_()
    checkpoint(lambda x: model(inputs_embeds=x), embedded, use_reentrant=reentrant)
    assert summary(model).calls == 8 and summary(model).dense_reasons == {"gradients are recorded": 4}


def test_forward_mode_derivatives_are_the_dense_models(model):
    model.set_attn_implementation("eager")
    embedded = model.get_input_embeddings()(tiny_language.tokens(150))
    derivatives = []
    for accelerate in (lambda model: model, lambda model: accelerate_model(model, hip())):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(embedded, embedded)
            derivatives.append(forward_ad.unpack_dual(accelerate(model)(inputs_embeds=dual).logits).tangent)
    assert torch.equal(*derivatives)
    assert summary(model).dense_reasons == {"gradients are recorded": 2}


@mark.parametrize("inner_first", [True, False])
def test_a_decoder_is_accelerated_by_itself_and_with_its_model(inner_first, model):
    expected = logits(model)
    for part in (model.model, model) if inner_first else (model, model.model):
        accelerate_model(part, hip())
        logits(model)
    assert summary(model).calls == (2 if inner_first else 4) and summary(model).dense_reasons == {}
    restore_model(model)
    assert torch.equal(logits(model), expected)
    assert not any("accel_slot" in vars(layer.self_attn) for layer in model.model.layers)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_compiled_dropout_is_the_dense_models():
    """The operator of compiled code has no dropout: it would leave it out in silence."""
    outputs = []
    for accelerate in (lambda model: model, keep_everything):
        model = accelerate(tiny_language.llama(attention_dropout=0.5)).train()
        torch._dynamo.reset()
        torch.manual_seed(0)
        outputs.append(logits(torch.compile(model, backend="eager"), 40))
    assert torch.equal(*outputs)


def test_summary_says_nothing_of_denoising_steps(model):
    assert "steps counted by" not in str(summary(keep_everything(model)))


@mark.parametrize("method", ["radial", "draft"])
def test_methods_that_need_a_grid_are_refused_before_anything_is_touched(model, method):
    with raises(RecipeError, match=r"rules\[0\].policy: .*grid"):
        accelerate_model(model, hip(), method=method)
    assert model.config._attn_implementation == "sdpa"


def test_scores_that_know_no_causality_are_refused_too(model):
    policy = {"method": "compose", "score": {"kind": "sampled"}, "select": {"kind": "top_p", "mass": 0.9}}
    with raises(RecipeError, match="not causal"):
        accelerate_model(model, Recipe.model_validate({"rules": [{"match": "*", "policy": policy}]}))


def test_generation_is_that_of_the_stock_model_when_everything_is_kept(model):
    ids = tiny_language.tokens(100, 2)
    expected = model.generate(ids, max_new_tokens=6, do_sample=False)
    keep_everything(model)
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), expected)
