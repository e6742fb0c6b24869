"""MiniMax-H3's packed sequence as its pipeline builds it: which rows are videos; sound stays exact."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.modular_pipelines.minimax_h3.before_denoise import MiniMaxH3Ref2VAPrepareLayoutStep

from accel import accelerate_model, summary
from accel.patches.diffusers.families.joint_video import minimax_h3
from accel.patches.grid import Span, TokenGrid
from accel.recipe.recipe import Recipe
from tiny_families import CASES, TEXT
from tiny_inputs import noise

SIZE = (3, 8, 9)


def packed(*references: tuple) -> dict[str, torch.Tensor]:
    """The rows that diffusers packs for references of (kind, frames, rows, columns), by its own code.

    A video has sound, two channels of 7 latents.
    """
    kinds = [SimpleNamespace(kind=kind, has_audio=kind == "video") for kind, *_ in references]
    positions, _, video, *_ = MiniMaxH3Ref2VAPrepareLayoutStep.build_ref2va_packed_sequence(
        torch.ones(TEXT),
        kinds,
        [noise(1, 4, *size) for _, *size in references],
        [noise(14, 4) for kind, *_ in references if kind == "video"],
        num_latent_frames=5,
        latent_height=8,
        latent_width=10,
        num_audio_latents=6,
        patch_size=(1, 1, 1),
        audio_channels=2,
        audio_tag=2,
        video_tag=0,
    )
    return {"position_ids": positions, "video_indices": video}


VIDEO, OTHER, IMAGE = ("video", 4, 8, 10), ("video", 3, 6, 4), ("image", 1, 8, 10)
REFERENCES = {
    "none": ((), 0, ()),
    "one image": ((IMAGE,), 80, ()),
    "images of one size": ((IMAGE,) * 4, 320, ()),
    "a video": ((VIDEO,), 14 + 320, (Span(TEXT + 14, 4, 8, 10),)),
    "two videos": (
        (VIDEO, OTHER),
        14 + 320 + 14 + 72,
        (Span(TEXT + 14, 4, 8, 10), Span(TEXT + 14 + 320 + 14, 3, 6, 4)),
    ),
    "an image of another size behind a video": (
        (OTHER, IMAGE),
        14 + 72 + 80,
        (Span(TEXT + 14, 3, 6, 4),),
    ),
    "an image of its size behind a video": ((VIDEO, IMAGE, IMAGE), 14 + 480, ()),
}


@pytest.mark.parametrize(("references", "rows", "spans"), REFERENCES.values(), ids=REFERENCES.keys())
def test_reference_videos_are_spans_and_images_are_not(references, rows, spans):
    grid = minimax_h3.read_grid(None, (), packed(*references))
    assert grid == TokenGrid(5, 8, 10, lead_tokens=TEXT + rows + 12, spans=spans)


def recipe(**policy) -> Recipe:
    return Recipe.model_validate({"schedule": {"min_tokens": 0}, "rules": [{"match": "*", "policy": policy}]})


COMPOSED = {"method": "compose", "score": {"kind": "pooled"}, "block_size": [16, 16]}
COMPOSED |= {"select": {"kind": "top_k", "density": 0.3, "budget": "row"}}
STATIC = {"method": "compose", "always": {"own_frame": True}, "block_size": [16, 16]}
RADIAL = {"method": "radial", "decay": 0.3, "block_size": [16, 16]}


TILE = {"kind": "tile", "size": [2, 4, 2]}


@pytest.mark.parametrize(
    "order", [{"kind": "row_major"}, {"kind": "hilbert"}, TILE], ids=lambda order: order["kind"]
)
@torch.no_grad()
def test_a_reference_video_is_sparse_and_sound_is_exact(order):
    video, sound, sparse, density = one_layer(COMPOSED | {"order": order})
    torch.testing.assert_close(sparse[1], sound, atol=2e-6, rtol=2e-6)
    assert not torch.allclose(sparse[0][:, :120], video[:, :120], atol=1e-3)
    assert not torch.allclose(sparse[0][:, 120:], video[:, 120:], atol=1e-3)
    assert density < 0.55


@pytest.mark.parametrize("policy", [STATIC, RADIAL], ids=["static", "radial"])
@torch.no_grad()
def test_without_a_score_reference_videos_stay_exact(policy):
    video, sound, sparse, density = one_layer(policy)
    torch.testing.assert_close(sparse[1], sound, atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(sparse[0][:, :120], video[:, :120], atol=2e-6, rtol=2e-6)
    assert density < 1


def one_layer(policy):
    """Video rows and sound of the dense model and of the sparse one, of one layer, and the density."""
    case = CASES["minimax-h3-reference"]
    model, arguments = case.model(num_layers=1), case.arguments(SIZE)
    video, sound = model(**arguments)
    accelerate_model(model, recipe(**policy), dense_steps=0, dense_layers=0)
    sparse = model(**arguments)
    assert not summary(model).dense_reasons
    return video, sound, sparse, summary(model).sparse_density


@pytest.mark.parametrize(
    "spans",
    [((0, 1, 4, 6),), ((0, 1, 2, 4), (4, 1, 2, 4)), ((-1, 1, 2, 2),)],
    ids=["long", "twice", "before"],
)
def test_a_grid_refuses_spans_that_are_not_apart_in_its_lead(spans):
    with pytest.raises(ValueError, match="inside the 20 lead tokens"):
        TokenGrid(1, 2, 2, lead_tokens=20, spans=spans)
