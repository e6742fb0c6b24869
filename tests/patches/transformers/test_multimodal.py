"""Models of text and images: their layers run sparse over vision tokens, and know which they are."""

from dataclasses import dataclass, field

import torch
from pytest import mark, raises
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from accel import Policy, accelerated, restore_model, summary
from accel.accelerate import accelerate_model
from accel.kernels.layout.layout import BlockLayout
from accel.patches.transformers.vision import announced

IMAGE, START, END = 90, 92, 93
TEXT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "patch_size": 4}
QWEN_VISION = VISION | {"depth": 1, "num_heads": 2, "out_hidden_size": 32}
QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": 91,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}
GRID = {"image_grid_thw": torch.tensor([[1, 24, 24]])}


def prompt(images, *edges):
    """Twenty tokens of text, an image, thirty of text."""
    text = torch.randint(3, 80, (50,), generator=torch.Generator().manual_seed(1))
    first, last = edges or ([], [])
    image = torch.tensor([*first, *[IMAGE] * images, *last])
    return torch.cat([text[:20], image, text[20:]])[None]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def qwen2_5_vl():
    rope = {"type": "mrope", "mrope_section": [1, 1, 2], "rope_type": "default"}
    vision = QWEN_VISION | {"fullatt_block_indexes": [0], "window_size": 16}
    config = Qwen2_5_VLConfig(text_config=TEXT | {"rope_scaling": rope}, vision_config=vision, **QWEN_TOKENS)
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_inputs()


def qwen3_vl():
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True}
    vision = QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    text = TEXT | {"head_dim": 8, "rope_scaling": rope}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **QWEN_TOKENS)
    return Qwen3VLForConditionalGeneration(config), _qwen_inputs()


def _qwen_inputs():
    ids = prompt(144, [START], [END])
    return {
        "input_ids": ids,
        "pixel_values": noise(576, 96),
        "mm_token_type_ids": (ids == IMAGE).int(),
        **GRID,
    }


def llava():
    tower = VISION | {
        "model_type": "clip_vision_model",
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
    }
    text = TEXT | {"model_type": "llama"}
    config = LlavaConfig(
        text_config=text, vision_config=tower, image_token_index=IMAGE, vision_feature_layer=-1
    )
    return LlavaForConditionalGeneration(config), {
        "input_ids": prompt(144),
        "pixel_values": noise(1, 3, 48, 48),
    }


def gemma3():
    text = TEXT | {
        "head_dim": 8,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    tower = VISION | {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    config = Gemma3Config(
        text_config=text,
        vision_config=tower,
        mm_tokens_per_image=16,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
    )
    ids = prompt(16, [START], [END])
    inputs = {"input_ids": ids, "pixel_values": noise(1, 3, 32, 32), "token_type_ids": (ids == IMAGE).int()}
    return Gemma3ForConditionalGeneration(config), inputs


def built(build):
    torch.manual_seed(0)
    model, inputs = build()
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(2)  # Random weights attend almost uniformly.
    return model, inputs


def recipe(**select):
    score = {"kind": "strided", "query": 4, "key": 4}
    policy = {"method": "compose", "block_size": [16, 16], "score": score, "select": select}
    return {"schedule": {"min_tokens": 0}, "rules": [{"match": "*", "policy": policy}]}


@mark.parametrize("build", [qwen2_5_vl, qwen3_vl, llava])
def test_a_prompt_of_vision_tokens_runs_sparse(build):
    model, inputs = built(build)
    dense = model(**inputs).logits
    with accelerated(model, recipe(kind="top_p", mass=1)):
        torch.testing.assert_close(model(**inputs).logits, dense, atol=1e-4, rtol=1e-4)
        assert summary(model).density == 1
    with accelerated(model, recipe(kind="top_k", density=0.3)):
        assert not torch.allclose(model(**inputs).logits, dense, atol=1e-3)
        assert summary(model).density < 0.4
    assert torch.equal(model(**inputs).logits, dense)


def test_images_that_see_themselves_both_ways_stay_dense():
    """Gemma 3's mask is causal for text only: no layout holds it, so every call is the model's own."""
    model, inputs = built(gemma3)
    dense = model(**inputs).logits
    accelerate_model(model, recipe(kind="top_k", density=0.3))
    assert torch.equal(model(**inputs).logits, dense)
    assert "a mask other than causal" in str(summary(model))
    restore_model(model)


@dataclass(frozen=True)
class Asking(Policy):
    """Keeps every block, and what it was given."""

    given: list = field(default_factory=list)
    method: str = "asking"

    def layout(self, q, k, grid, context):
        self.given.append(context.vision)
        return BlockLayout.full(q.shape[2], k.shape[2], device=q.device, causal=True)


def given(model, **inputs):
    policy = Asking()
    with accelerated(model, policy, min_tokens=0):
        policy.given.clear()  # A method is tried out when it is put in.
        model(**inputs)
    return policy.given


@mark.parametrize("build", [qwen2_5_vl, qwen3_vl, llava])
def test_layers_know_which_tokens_are_vision_tokens(build):
    model, inputs = built(build)
    for vision in given(model, **inputs):
        assert torch.equal(vision, inputs["input_ids"] == IMAGE)
    text = inputs["input_ids"][:, :20]
    for vision in given(model, input_ids=text):
        assert not vision.any()
    assert given(model, inputs_embeds=model.get_input_embeddings()(text)) == [None, None]
    assert given(model.model.language_model, input_ids=text) == [None, None]


def test_each_sample_of_a_padded_batch_has_its_own_vision_tokens():
    model, inputs = built(llava)
    ids = inputs["input_ids"].repeat(2, 1)
    shown = torch.ones_like(ids)
    ids[1, :7], shown[1, :7] = 0, 0
    pixels = inputs["pixel_values"].repeat(2, 1, 1, 1)
    first, second, *_ = given(model, input_ids=ids, attention_mask=shown, pixel_values=pixels)
    assert torch.equal(first, ids[:1] == IMAGE) and torch.equal(second, ids[1:, 7:] == IMAGE)


def test_a_forward_that_fails_leaves_nothing_for_the_next():
    model, _ = built(llava)
    with accelerated(model, Asking(), min_tokens=0), raises(IndexError):
        model(input_ids=torch.full((1, 8), 10**6))
    assert announced(torch.empty(1, 1, 8, 4)) is None


@mark.parametrize("build", [qwen2_5_vl, llava])
def test_mminference_runs_sparse_and_decodes(build):
    model, inputs = built(build)
    with accelerated(model, "llm-mminference", min_tokens=0):
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert out.shape[1] == inputs["input_ids"].shape[1] + 3
        assert summary(model).sparse_calls == 2
