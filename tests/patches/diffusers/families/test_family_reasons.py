"""What a family cannot do well stays dense with that reason, or is refused; copies are families too."""

import copy
import pickle

import torch
from diffusers.models.attention_dispatch import attention_backend
from pytest import mark, raises
from torch.utils._python_dispatch import TorchDispatchMode

from accel import accelerate_model, summary
from accel.patches.diffusers.families.joint_video import cosmos3
from accel.recipe.recipe import Recipe
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


def test_text_padding_before_text_is_not_taken_for_lengths():
    case = CASES["motif"]
    arguments = {**case.arguments((3, 8, 9), batch=2), "encoder_attention_mask": text_mask(2).flip(1)}
    assert reasons(case.model(), arguments) == {"grid not readable (ValueError: padding before text)"}


@mark.parametrize("name", ["flux", "flux2"])
def test_positions_that_begin_with_no_full_grid_are_dense(name):
    case = CASES[name]
    arguments = case.arguments(SIZE)
    arguments["img_ids"] = arguments["img_ids"][1:]
    arguments["hidden_states"] = arguments["hidden_states"][:, 1:]
    assert reasons(case.model(), arguments) == {
        "grid not readable (ValueError: tokens of more than one grid)"
    }


def test_ltx_told_coordinates_of_no_grid_is_dense():
    case = CASES["ltx"]
    arguments = case.arguments((3, 8, 9))
    axes = torch.cartesian_prod(*(torch.arange(n) for n in (3, 8, 9))).T[None].float()
    arguments |= {"num_frames": None, "height": None, "width": None, "video_coords": axes}
    (reason,) = reasons(case.model(), arguments | {"video_coords": axes.flip(2)})
    assert reason == "grid not readable (ValueError: tokens of more than one grid)"
    accelerate_model(model := case.model(), RADIAL)
    with torch.no_grad():
        output(model, arguments)
    assert not summary(model).dense_reasons


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
        slot = block.attn.processor.slot
        slot.dense = Spy(slot.dense, seen)
    with torch.no_grad():
        output(model, arguments)
    tokens = 3 * 8 * 9 + TEXT + 5 + 3
    assert seen == [(2, 1, 1, tokens)] * case.sites


class LargestBool(TorchDispatchMode):
    """Notes how many elements the largest boolean tensor has that any operator makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.bool:
            self.elements = max(self.elements, out.untyped_storage().nbytes())
        return out


@torch.no_grad()
def test_hunyuan_video15_needs_no_memory_for_pairs_of_tokens():
    """On the sparse path too, and the stock model does: the measure can tell."""
    case = CASES["hunyuan-video-1.5"]
    model, arguments = case.model(), case.arguments((4, 16, 16), batch=2)
    tokens = 4 * 16 * 16 + TEXT + 5 + 3
    with LargestBool() as stock:
        output(model, arguments)
    accelerate_model(model, RADIAL)
    with LargestBool() as sparse:
        output(model, arguments)
    assert not summary(model).dense_reasons
    assert stock.elements == 2 * tokens**2
    assert sparse.elements <= 2 * tokens * 16


def test_hunyuan_video15_spreads_padding_nowhere():
    """What padding attends to is left free, and changes nothing of the video."""
    case = CASES["hunyuan-video-1.5"]
    model, arguments = case.model(), case.arguments((3, 8, 9), batch=2)
    with torch.no_grad():
        expected = output(model, arguments)
        accelerate_model(model, RADIAL, method="dense")
        torch.testing.assert_close(output(model, arguments), expected, atol=1e-6, rtol=1e-6)


@mark.parametrize("name", ["cosmos", "wan-animate", "flux"])
@torch.no_grad()
def test_any_active_backend_leads_to_the_slot(name):
    """One that is active in the whole process, and is not PyTorch's default, is what dense calls run on."""
    case = CASES[name]
    model, arguments = case.model(), case.arguments(SIZE if case.image else (3, 8, 9))
    with attention_backend("_native_math"):
        expected = output(model, arguments)
        accelerate_model(model, RADIAL, method="dense")
        assert torch.equal(output(model, arguments), expected)
        accelerate_model(model, RADIAL)
        output(model, arguments)
    account = summary(model)
    assert account.calls == case.sites and not account.dense_reasons


@torch.no_grad()
def test_framepack_counts_the_valid_text_of_a_single_sample():
    case = CASES["framepack"]
    model, arguments = case.model(), case.arguments((3, 8, 9))
    arguments["encoder_attention_mask"] = text_mask(1)
    expected = output(model, arguments)
    assert arguments["encoder_attention_mask"].sum() < TEXT
    accelerate_model(model, RADIAL, method="dense")
    assert torch.equal(output(model, arguments), expected)
    accelerate_model(model, RADIAL)
    assert not torch.equal(output(model, arguments), expected)
    assert summary(model).calls == case.sites and not summary(model).dense_reasons


@torch.no_grad()
def test_cosmos3_calls_of_text_among_itself_are_the_models_own():
    case = CASES["cosmos3"]
    model, arguments = case.model(), case.arguments((3, 8, 9))
    expected = output(model, arguments)
    accelerate_model(model, RADIAL, method="dense")
    assert torch.equal(output(model, arguments), expected)
    assert summary(model).calls == case.sites


def test_cosmos3_videos_of_two_sizes_are_no_grid():
    case = CASES["cosmos3"]
    model = case.model()
    arguments = case.arguments((2, 8, 9)) | {"vision_token_shapes": [(2, 8, 8), (2, 4, 4)]}
    with raises(ValueError, match="videos of different size"):
        cosmos3.read_grid(model, (), arguments)


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
