"""What an accelerated model's configuration says: what the stock model's does, to whoever asks."""

import subprocess
import sys

import torch
from pytest import mark, raises, warns
from torch import nn

import tiny_language as tiny
from accel import accelerate_model, restore_model, summary
from accel.patches.transformers.interface import interface_of
from accel.patches.transformers.sites import find_sites
from accel.recipe.recipe import Recipe
from keep_everything import keep_everything
from shrunken import small_model

SPARSE = {"min_tokens": 0, "dense_layers": 0}

pytestmark = mark.usefixtures("inference")


def test_weights_asked_for_by_the_configuration_of_an_eager_model():
    model = tiny.llama()
    model.set_attn_implementation("eager")
    accelerate_model(model, "llm-permuted", **SPARSE)
    model.config.output_attentions = True
    weights = model(tiny.tokens(40)).attentions
    assert [w.shape for w in weights] == [(1, 4, 40, 40)] * 2
    assert summary(model).dense_reasons == {"attention weights are asked for": 2}


def test_models_that_share_a_configuration_do_not_share_acceleration():
    model = tiny.llama()
    other = type(model)(model.config).eval()
    expected = other(tiny.tokens(150)).logits
    accelerate_model(model, "llm-permuted", **SPARSE)
    assert torch.equal(other(tiny.tokens(150)).logits, expected)
    accelerate_model(other, "llm-permuted", **SPARSE)
    restore_model(model)
    other(tiny.tokens(150))
    assert summary(other).dense_reasons == {} and all(site.in_force for site in summary(other).sites)


def test_eager_models_run_sparse_by_the_masks_of_eager_attention():
    model = tiny.llama()
    model.set_attn_implementation("eager")
    mask = torch.ones(2, 150, dtype=torch.long)
    mask[1, :31] = 0
    accelerate_model(model, "llm-permuted", **SPARSE)
    model(tiny.tokens(150, 2), attention_mask=mask)
    assert summary(model).dense_reasons == {}


@mark.parametrize("implementation", ["eager", "sdpa"])
def test_no_mask_means_what_it_does_to_the_implementation(implementation):
    model = tiny.gemma3()
    model.set_attn_implementation(implementation)
    masks = {"full_attention": None, "sliding_attention": None}
    expected = model(tiny.tokens(60), attention_mask=dict(masks)).logits
    keep_everything(model)
    got = model(tiny.tokens(60), attention_mask=dict(masks)).logits
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=5e-5)


def test_an_implementation_with_masks_of_its_own_is_set_back():
    model = tiny.llama()
    model.set_attn_implementation("flex_attention")
    accelerate_model(model, "llm-permuted", **SPARSE)
    model(tiny.tokens(40))
    assert summary(model).dense_reasons == {}
    restore_model(model)
    assert model.config._attn_implementation == "flex_attention"


@mark.parametrize("padding", ["right", "left"])
def test_a_batch_that_is_padded_in_every_row_runs_sparse(padding):
    model = tiny.llama()
    ids, mask = tiny.tokens(60, 2), torch.zeros(2, 60, dtype=torch.long)
    for row, length in enumerate((40, 52)):
        mask[row, slice(0, length) if padding == "right" else slice(60 - length, 60)] = 1
    expected = model(ids, attention_mask=mask).logits * mask[..., None]
    keep_everything(model)
    got = model(ids, attention_mask=mask).logits * mask[..., None]
    assert summary(model).dense_reasons == {}
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=5e-5)


@mark.parametrize("model_type", ["deepseek_v32", "minimax_m3_vl_text"])
def test_layers_that_ask_for_a_name_are_refused_and_left_as_they_are(model_type):
    model = small_model(model_type)
    expected = model(tiny.tokens(60), use_cache=False).logits
    with raises(TypeError, match="computes something else under any implementation except those it knows"):
        accelerate_model(model, "llm-permuted", **SPARSE)
    assert torch.equal(model(tiny.tokens(60), use_cache=False).logits, expected)


def test_some_layers_that_ask_are_left_alone_with_a_warning():
    model = tiny.llama()
    asking = small_model("deepseek_v32").model.layers[0].self_attn
    model.model.layers[1].self_attn = asking
    with warns(UserWarning, match="left alone: DeepseekV32Attention"):
        assert [site.name for site in find_sites(model)] == ["model.layers.0.self_attn"]


def test_what_a_class_asks_is_read_in_its_code():
    assert interface_of(tiny.llama().model.layers[0].self_attn).compared == ()
    gpt2 = interface_of(small_model("gpt2").transformer.h[0].attn)
    assert gpt2.is_alike("sdpa", "other") and not gpt2.is_alike("eager", "other")
    assert interface_of(nn.Linear(2, 2)) is None


@mark.filterwarnings("ignore::FutureWarning")
def test_a_keyword_nobody_knows_makes_the_call_dense():
    model = tiny.llama()
    expected = model(tiny.tokens(150), sparse_indices=torch.zeros(1)).logits
    accelerate_model(model, "llm-permuted", **SPARSE)
    assert torch.equal(model(tiny.tokens(150), sparse_indices=torch.zeros(1)).logits, expected)
    assert list(summary(model).dense_reasons) == [
        "asks for sparse_indices, which block-sparse attention does not support"
    ]


def test_keywords_of_the_loss_do_not_make_a_call_dense():
    model, ids = tiny.llama(), tiny.tokens(150)
    accelerate_model(model, "llm-permuted", **SPARSE)
    model(ids, labels=ids, shift_labels=ids, num_items_in_batch=torch.tensor(150), ignore_index=-1)
    assert summary(model).dense_reasons == {}


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(ids, use_cache=False).logits


@mark.parametrize("strict", [False, True])
def test_an_exported_model_is_dense_and_runs_in_another_process(strict, tmp_path):
    model, ids = tiny.llama(), tiny.tokens(40)
    expected = Wrapped(model)(ids)
    accelerate_model(model, "llm-permuted", **SPARSE)
    program = torch.export.export(Wrapped(model), (ids,), strict=strict)
    torch.testing.assert_close(program.module()(ids), expected)
    torch.export.save(program, tmp_path / "model.pt2")
    torch.save((ids, expected), tmp_path / "expected.pt")
    code = (
        "import sys, torch; ids, expected = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(torch.export.load(sys.argv[1]).module()(ids), expected)\n"
        "assert 'accel' not in sys.modules\n"
    )
    paths = [str(tmp_path / "model.pt2"), str(tmp_path / "expected.pt")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)


def test_what_is_traced_runs_dense_and_spoils_nothing():
    model, ids = tiny.llama(), tiny.tokens(60, 3)
    outputs = []
    for accelerate in (lambda model: model, lambda model: accelerate_model(model, "llm-permuted", **SPARSE)):
        wrapped = Wrapped(accelerate(model))
        outputs.append(torch.vmap(lambda row, run=wrapped: run(row[None])[0])(ids))
        outputs.append(torch.jit.trace(wrapped, (ids,), check_trace=False)(ids))
    assert torch.equal(outputs[2], outputs[0]) and torch.equal(outputs[3], outputs[1])
    reasons = set(summary(model).dense_reasons)
    assert reasons == {"traced by torch.jit", "transformed by torch.func or torch.vmap"}
    model(ids)
    assert set(summary(model).dense_reasons) == reasons


class Uncopyable(nn.Linear):
    """As quantised weights may be."""

    def __deepcopy__(self, memo):
        raise RuntimeError("cannot be copied")

    def __reduce_ex__(self, protocol):
        raise RuntimeError("cannot be pickled")


def test_models_that_cannot_be_copied_or_saved_are_accelerated_and_restored():
    model = tiny.llama()
    expected = model(tiny.tokens(150)).logits
    attention = model.model.layers[0].self_attn
    weight = attention.q_proj.weight
    attention.q_proj = Uncopyable(64, 64, bias=False)
    attention.q_proj.weight = weight
    accelerate_model(model, "llm-permuted", **SPARSE)
    assert model(tiny.tokens(150)).logits.isfinite().all() and summary(model).dense_reasons == {}
    restore_model(model)
    assert torch.equal(model(tiny.tokens(150)).logits, expected)


def test_layers_that_stay_dense_are_counted_among_those_that_see_everything():
    """A third of six layers, two of which see everything: the first of these. Windows keep their path."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    model = tiny.gemma3(num_hidden_layers=6, layer_types=kinds)
    accelerate_model(model, "llm-permuted", min_tokens=0, dense_layers=0.3)
    model(tiny.tokens(150))
    sites = summary(model).sites
    assert [site.dense_reasons for site in sites] == [{}, {}, {"dense layer": 1}, {}, {}, {}]


def test_a_summary_tells_prompts_and_decoding_apart():
    model = tiny.llama()
    policy = {"method": "hip", "density": 0.1, "sink": 16, "window": 16, "block_size": [16, 16]}
    rules = [{"match": "*", "policy": policy}]
    accelerate_model(model, Recipe.model_validate({"schedule": {"min_tokens": 0}, "rules": rules}))
    model.generate(tiny.tokens(400), max_new_tokens=5, do_sample=False)
    (prompts, of_prompts), (tokens, of_tokens) = summary(model).phases.values()
    assert (prompts, tokens, of_tokens) == (2, 8, 1.0) and of_prompts < 0.7
    assert f"prompt: 2 calls at density {of_prompts:.3f}" in str(summary(model))
    assert "decoding: 8 calls at density 1.000" in str(summary(model))
