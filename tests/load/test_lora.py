"""LoRA weights from a folder, at the scale beside them."""

import json

import torch
from pytest import approx, fixture, mark, raises

from accel import accelerate_model, summary
from accel.load.lora import Lora, load_loras
from accel.load.pipeline import LoadError, load_pipeline
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.radial import Radial


@fixture(scope="module")
def weights(tmp_path_factory):
    """Random LoRA weights for the demo's attention, as a folder."""
    from diffusers import WanPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    folder = tmp_path_factory.mktemp("lora")
    model = load_pipeline("demo").transformer
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(model))
    return folder


def latents(pipe):
    arguments = {
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "num_inference_steps": 2,
        "output_type": "latent",
    }
    return pipe("a red circle", generator=torch.Generator().manual_seed(0), **arguments).frames


@mark.parametrize("as_file", [False, True], ids=["folder", "file"])
def test_the_scale_is_the_one_beside_the_weights(weights, as_file):
    source = weights / "pytorch_lora_weights.safetensors" if as_file else weights
    pipe = load_pipeline("demo")
    (weights / "lora_config.json").write_text(json.dumps({"lora_alpha": 64, "lora_rank": 128}))
    try:
        assert load_loras(pipe, [Lora(str(source))]) == {"lora_0": approx(0.5)}
        layer = pipe.transformer.blocks[0].attn1.to_q
        assert layer.scaling["lora_0"] == approx(0.5 * layer.lora_alpha["lora_0"] / layer.r["lora_0"])
    finally:
        (weights / "lora_config.json").unlink()


def test_a_scale_of_nothing_changes_nothing_and_one_does(weights):
    expected = latents(load_pipeline("demo"))
    for text, same in ((f"{weights}=0", True), (f"{weights}", False)):
        pipe = load_pipeline("demo")
        load_loras(pipe, [Lora.parse(text)])
        assert torch.equal(latents(pipe), expected) is same


def test_an_extended_recipe_runs_on_weights_with_lora(weights):
    pipe = load_pipeline("demo")
    load_loras(pipe, [Lora(str(weights))])
    dense = latents(pipe)
    accelerate_model(pipe, "radial-extended", min_tokens=0, dense_steps=0, block_size=[16, 16])
    sparse = latents(pipe)
    account = summary(pipe)
    assert account.sparse_density < 1 and account.dense_reasons
    assert sparse.isfinite().all() and not torch.equal(sparse, dense)


@mark.parametrize(
    ("grid", "rule", "published"),
    [
        (TokenGrid(41, 48, 80), "wan", 0.736),
        (TokenGrid(64, 48, 80, 256), "hunyuan", 0.808),
        (TokenGrid(128, 48, 80, 256), "hunyuan", 0.883),
    ],
    ids=["wan-161-frames", "hunyuan-253-frames", "hunyuan-509-frames"],
)
def test_extended_lengths_have_about_the_published_sparsity(grid, rule, published):
    q = torch.empty(1, 1, grid.tokens, 1)
    layout = Radial(rule=rule).layout(q, q, grid, Context())
    assert layout.kv_num_blocks.min() >= 1
    assert 1 - layout.density == approx(published, abs=0.01)


def test_what_cannot_be_loaded_is_said(tmp_path, weights):
    pipe = load_pipeline("demo")
    with raises(LoadError, match=r"\.safetensors only"):
        (tmp_path / "weights.bin").write_bytes(b"0")
        load_loras(pipe, [Lora(str(tmp_path / "weights.bin"))])
    with raises(LoadError, match="expected one"):
        load_loras(pipe, [Lora(str(tmp_path))])
    for missing in ("nowhere.bin", "nowhere.safetensors", "a/b/c", "nowhere"):
        with raises(LoadError, match="no such file or folder"):
            load_loras(pipe, [Lora(missing)])
    with raises(LoadError, match="cannot load LoRA weights from 'nobody/nothing'"):
        load_loras(pipe, [Lora("nobody/nothing")])
    with raises(LoadError, match="SOURCE=SCALE"):
        Lora.parse("weights=strong")
    with raises(LoadError, match="takes no LoRA"):
        load_loras(object(), [Lora(str(weights))])
    from safetensors.torch import save_file

    save_file({"unet.foo.lora_A.weight": torch.zeros(4, 4)}, tmp_path / "other.safetensors")
    with raises(LoadError, match="LoRA weights"):
        load_loras(pipe, [Lora(str(tmp_path))])
    assert not pipe.get_list_adapters()
