"""Every causal model of the installed transformers that can be built tiny: its logits are the stock model's.

The lists below are complete: a class that is new, or no longer there, or can be built by now, fails a test.
"""

import torch
from pytest import mark, raises

from accel import accelerate_model, restore_model
from keep_everything import DENSE, keep_everything
from shrunken import NAMES, small_model

LENGTH = 60
STRICT = "its configuration refuses the small sizes"
SIZE = "it stays large"
PARTS = "it wants more than a text, or parts that fit each other"
UNBUILT = {
    "blt": SIZE,
    "cohere_compass_text": PARTS,
    "cpmant": SIZE,
    "dbrx": PARTS,
    "dots3_note": STRICT,
    "dots3_note_text": STRICT,
    "gemma3n": "its vision tower is a package that is not installed",
    "gemma3n_text": STRICT,
    "gemma4": SIZE,
    "gemma4_assistant": STRICT,
    "gemma4_text": SIZE,
    "gemma4_unified_assistant": PARTS,
    "got_ocr2": SIZE,
    "inkling2_loop_text": SIZE,
    "inkling2_text": SIZE,
    "mamba2": STRICT,
    "musicgen": PARTS,
    "musicgen_melody": PARTS,
    "phi4_multimodal": SIZE,
    "reformer": STRICT,
    "roc_bert": SIZE,
    "xmod": PARTS,
}
# Layers that compute something else under a name that they do not know. GPT-2 does where it was loaded eager.
ASKING = {"axk2", "deepseek_v32", "glm_moe_dsa", "hy_v4", "minimax_m3_vl_text"}
ASKING_EAGER = {*ASKING, "gpt2", "gpt-sw3"}
# No causal self-attention that looks a function up: encoders, states in place of attention, older code.
WITHOUT = """
big_bird bigbird_pegasus bloom doge falcon falcon_mamba git gpt_neo gpt_neox_japanese
mamba megatron-bert mpt mvp openai-gpt prophetnet rembert roformer rwkv trocr xglm xlm xlnet xlstm
zamba
"""
CANNOT_GENERATE = {"dory"}

pytestmark = mark.usefixtures("inference")


def tokens():
    return torch.randint(3, 90, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def outputs(model):
    """Logits of two texts, and of the same with one of them padded; 0 where there is padding."""
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, :19] = 0
    padded = model(tokens(), attention_mask=mask, use_cache=False).logits
    return model(tokens(), use_cache=False).logits, padded * mask[..., None]


def generated(model):
    return model.generate(tokens()[:1], max_new_tokens=2, do_sample=False, pad_token_id=0)


def has(model, implementation):
    """Whether a model runs that implementation, by now."""
    if model.config._attn_implementation != implementation:
        try:
            model.set_attn_implementation(implementation)
        except ValueError:
            return False
    return model.config._attn_implementation == implementation


@mark.parametrize("model_type", UNBUILT)
def test_what_is_left_out_cannot_be_built(model_type):
    with raises(Exception):  # noqa: B017
        small_model(model_type)(tokens(), use_cache=False)


@mark.filterwarnings("ignore")
@mark.parametrize("model_type", [name for name in NAMES if name not in UNBUILT])
def test_logits_are_the_stock_models(model_type):
    model = small_model(model_type)
    for implementation, asking in ("sdpa", ASKING), ("eager", ASKING_EAGER):
        if not has(model, implementation):
            continue
        if model_type in asking or model_type in WITHOUT.split():
            with raises(TypeError, match="computes something else" if model_type in asking else "no causal"):
                accelerate_model(model, DENSE)
            continue
        expected = outputs(model)
        text = None if model_type in CANNOT_GENERATE else generated(model)
        accelerate_model(model, DENSE)
        assert all(map(torch.equal, outputs(model), expected))
        keep_everything(model)
        for got, wanted in zip(outputs(model), expected, strict=True):
            torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)
        assert text is None or torch.equal(generated(model), text)
        restore_model(model)
