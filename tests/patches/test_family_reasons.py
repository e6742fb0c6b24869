"""What a family cannot do well stays dense with that reason, or is refused; copies are families too."""

import copy
import pickle

import torch
from pytest import mark, raises

from accel import accelerate_model, summary
from accel.recipe import Recipe
from tiny_families import CASES, TEXT, output, text_mask

RADIAL = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "radial", "decay": 0.3, "block_size": [16, 16]}}]}
)
SIZE = (1, 8, 9)


def reasons(model, arguments) -> set[str]:
    """Why the calls of one forward stayed dense; its output must be the model's own."""
    with torch.no_grad():
        expected = output(model, arguments)
        accelerate_model(model, RADIAL)
        assert torch.equal(output(model, arguments), expected)
    account = summary(model)
    assert account.density == 1
    return set(account.dense_reasons)


def test_text_padding_between_text_and_image_is_a_mask():
    case = CASES["qwen-image"]
    arguments = {**case.arguments(SIZE, batch=2), "encoder_hidden_states_mask": text_mask(2)}
    assert reasons(case.model(), arguments) == {"attention mask"}


def test_text_padding_before_text_is_not_taken_for_lengths():
    case = CASES["motif"]
    arguments = {**case.arguments((3, 8, 9), batch=2), "encoder_attention_mask": text_mask(2).flip(1)}
    assert reasons(case.model(), arguments) == {"grid not readable (ValueError: padding before text)"}


@mark.parametrize("name", ["flux", "flux2"])
def test_a_reference_image_of_another_size_is_no_grid(name):
    case = CASES[name]
    arguments = case.arguments(SIZE)
    ids = arguments["img_ids"]
    reference = ids[:20] + torch.eye(ids.shape[1])[0]
    arguments["img_ids"] = torch.cat([ids, reference])
    arguments["hidden_states"] = torch.randn(1, len(ids) + 20, 4)
    assert reasons(case.model(), arguments) == {
        "grid not readable (ValueError: image tokens of more than one grid)"
    }


def test_ltx_told_coordinates_only_has_no_grid():
    case = CASES["ltx"]
    arguments = case.arguments((3, 8, 9))
    axes = torch.cartesian_prod(*(torch.arange(n) for n in (3, 8, 9))).T[None].float()
    arguments |= {"num_frames": None, "height": None, "width": None, "video_coords": axes}
    (reason,) = reasons(case.model(), arguments)
    assert reason.startswith("grid not readable (TypeError")


def test_kandinsky_trained_sparse_is_refused():
    case = CASES["kandinsky5"]
    model = case.model()
    model.register_to_config(attention_type="nabla")
    with raises(ValueError, match="NABLA"):
        accelerate_model(model, RADIAL)


def test_hunyuan_video15_makes_no_mask_of_token_pairs():
    case = CASES["hunyuan-video-1.5"]
    model, arguments = case.model(), case.arguments((3, 8, 9), batch=2)
    accelerate_model(model, RADIAL, method="dense")
    seen = []
    for block in model.transformer_blocks:
        seat = block.attn.processor.seat
        seat.dense = Spy(seat.dense, seen)
    with torch.no_grad():
        output(model, arguments)
    tokens = 3 * 8 * 9 + TEXT + 5 + 3
    assert seen == [(2, 1, 1, tokens)] * case.sites


class Spy:
    """Dense attention that notes the shape of its mask."""

    def __init__(self, dense, seen):
        self.dense, self.seen, self.name = dense, seen, dense.name

    def __call__(self, q, k, v, mask):
        self.seen.append(tuple(mask.shape))
        return self.dense(q, k, v, mask)


@mark.parametrize("name", ["flux", "cogvideox", "hunyuan-video-1.5", "mochi"])
@torch.no_grad()
def test_copies_and_pickles_are_accelerated_on_their_own(name):
    case = CASES[name]
    arguments = case.arguments(SIZE if case.image else (3, 8, 9))
    model = accelerate_model(case.model(), RADIAL)
    expected = output(model, arguments)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output(twin, arguments), expected)
        assert not summary(twin).dense_reasons


@torch.no_grad()
def test_projections_fused_later_are_used():
    case = CASES["flux"]
    model, arguments = accelerate_model(case.model(), RADIAL), case.arguments(SIZE)
    expected = output(model, arguments)
    model.fuse_qkv_projections()
    torch.testing.assert_close(output(model, arguments), expected, atol=1e-5, rtol=1e-5)
    assert summary(model).calls == 2 * case.sites
