"""Quantised weights, before and after acceleration, compared with the dense model of the same weights."""

import torch
from diffusers import TorchAoConfig, WanTransformer3DModel
from pytest import fixture, importorskip, mark

import tiny
from accel import accelerate_model, restore_model, summary
from accel.comparison.quality import relative_error
from accel.load.pipeline import load_pipeline
from accel.load.quantised import QUANTISERS
from tiny_wan_pipeline import keep_every_block, recipe


@torch.no_grad()
def output(model):
    return model(**tiny.inputs(model))[0]


def torchao_config(name):
    """One of torchao's configurations; skips the test without torchao."""
    return getattr(importorskip("torchao.quantization"), name)()


def torchao_int8(model):
    quantise(model, torchao_config("Int8WeightOnlyConfig"))


def torchao_int8_activations(model):
    quantise(model, torchao_config("Int8DynamicActivationInt8WeightConfig"))


def torchao_float8(model):
    quantise(model, torchao_config("Float8WeightOnlyConfig"))


def quanto_int8(model):
    quanto = importorskip("optimum.quanto")
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)
    assert type(model.blocks[0].attn1.to_q) is not torch.nn.Linear


def layerwise_float8(model):
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


def bitsandbytes_4bit(model):
    nn = importorskip("bitsandbytes").nn
    replace_linears(
        model, nn.Linear4bit, nn.Params4bit, {"compute_dtype": torch.float32}, {"quant_type": "nf4"}
    )


def bitsandbytes_8bit(model):
    nn = importorskip("bitsandbytes").nn
    replace_linears(
        model, nn.Linear8bitLt, nn.Int8Params, {"has_fp16_weights": False}, {"has_fp16_weights": False}
    )


def replace_linears(model, layer_class, weight_class, of_layer, of_weight):
    """What diffusers does when it loads with bitsandbytes, but for its refusal to do so without a GPU."""
    for block in model.blocks:
        for name, linear in list(block.named_modules()):
            if isinstance(linear, torch.nn.Linear):
                layer = layer_class(linear.in_features, linear.out_features, bias=True, **of_layer)
                layer.weight = weight_class(linear.weight.data, requires_grad=False, **of_weight)
                layer.bias = linear.bias
                block.set_submodule(name, layer.to("cpu"))
    assert model.blocks[0].attn1.to_q.weight.dtype in (torch.uint8, torch.int8)


def quantise(model, config):
    from torchao.quantization import quantize_

    quantize_(model, config)
    assert type(model.blocks[0].attn1.to_q.weight.data) is not torch.Tensor


TREATMENTS = [
    torchao_int8,
    torchao_int8_activations,
    torchao_float8,
    bitsandbytes_4bit,
    bitsandbytes_8bit,
    quanto_int8,
    layerwise_float8,
]


@mark.parametrize("treat", TREATMENTS, ids=lambda treat: treat.__name__)
@mark.parametrize("first", ["quantise", "accelerate"])
def test_quantised_before_or_after(treat, first):
    plain, model = tiny.wan(), tiny.wan()
    unquantised = output(plain)
    treat(plain)
    expected = output(plain)
    assert not torch.equal(expected, unquantised)
    if first == "quantise":
        treat(model)
    keep_every_block(model)
    if first == "accelerate":
        treat(model)
    check(model, expected)


def check(model, expected):
    """Keep-everything as the dense model, sparse apart from it, restored exactly."""
    torch.testing.assert_close(output(model), expected, atol=1e-4, rtol=1e-4)
    assert summary(model).sparse_density == 1
    accelerate_model(model, recipe())
    sparse = output(model)
    assert summary(model).sparse_density < 1 and not torch.equal(sparse, expected)
    assert sparse.isfinite().all()
    restore_model(model)
    assert torch.equal(output(model), expected)


@fixture
def saved(tmp_path):
    tiny.wan().save_pretrained(tmp_path)
    return tmp_path


def test_loaded_quantised_by_torchao(saved):
    config = TorchAoConfig(torchao_config("Int8WeightOnlyConfig"))
    model = WanTransformer3DModel.from_pretrained(
        saved, quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    expected = output(model)
    keep_every_block(model)
    check(model, expected)


@mark.parametrize("name", ["torchao-int8", "quanto-int8"])
def test_a_pipeline_that_the_command_line_quantises(name):
    importorskip(QUANTISERS[name][0])

    def made(pipe):
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            "a red circle",
            height=64,
            width=96,
            num_frames=5,
            num_inference_steps=2,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).frames

    pipe = load_pipeline("demo", "cpu", quantize=name)
    expected = made(pipe)
    difference = relative_error(expected, made(load_pipeline("demo", "cpu")))
    assert 0 < difference < 0.2
    keep_every_block(pipe)
    torch.testing.assert_close(made(pipe), expected, atol=1e-4, rtol=1e-4)
    assert summary(pipe).sparse_density == 1
    accelerate_model(pipe, recipe())
    sparse = made(pipe)
    assert summary(pipe).sparse_density < 1 and not torch.equal(sparse, expected)
    restore_model(pipe)
    assert torch.equal(made(pipe), expected)


def test_a_quantised_model_compiles_to_one_graph():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    model = tiny.wan()
    torchao_int8(model)
    expected = output(model)
    keep_every_block(model)
    graphs = CompileCounter()
    model.compile_repeated_blocks(fullgraph=True, backend=graphs)
    torch.testing.assert_close(output(model), expected, atol=1e-4, rtol=1e-4)
    assert graphs.frame_count == 1 and summary(model).calls == 3
