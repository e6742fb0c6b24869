"""The demo's world: seeded, in range, and its objects look and move as the captions say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from diffusers import WanPipeline
from transformers import AutoTokenizer

from accel.demo.paths import DEMO_PROMPTS, DEMO_SETTINGS, DEMO_VIDEO
from scripts.training.video.transformer_stage import build_tokenizer
from scripts.training.world import words
from scripts.training.world.draw import coverage, draw_clips, draw_scene
from scripts.training.world.motion import MOTION_PATHS
from scripts.training.world.scene import Scene, sample_scene
from scripts.training.world.signed_distance import DISTANCES

COUNT, HEIGHT, WIDTH = 6, 40, 56


def scene_of(**places: float) -> Scene:
    """Six clips of one object each, with some of their choices fixed."""
    scene = sample_scene(COUNT, seed=11, one_object=1.0)
    fixed = {key: torch.full_like(getattr(scene, key), place) for key, place in places.items()}
    return replace(scene, **fixed)


def moving_object(motion: str, frames: int = 33, **places: float) -> torch.Tensor:
    """How much of every pixel the object covers, [clips, F, H, W], in clips of one motion."""
    scene = scene_of(motion=words.MOTIONS.index(motion), **places)
    x, y = torch.arange(WIDTH)[None] + 0.5, torch.arange(HEIGHT)[:, None] + 0.5
    return coverage(scene, 0, frames, x, y)


def centroid(share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Column and row of the covered pixels' centre, each [clips, F]."""
    mass = share.sum((-1, -2))
    return (share.sum(-2) @ torch.arange(WIDTH).float()) / mass, (
        share.sum(-1) @ torch.arange(HEIGHT).float()
    ) / mass


def test_same_seed_same_clips():
    first, first_captions = draw_clips(3, 5, 24, 40, seed=7)
    again, again_captions = draw_clips(3, 5, 24, 40, seed=7)
    other, other_captions = draw_clips(3, 5, 24, 40, seed=8)
    assert torch.equal(first, again) and first_captions == again_captions
    assert not torch.equal(first, other) and first_captions != other_captions


def test_clips_are_float_videos_in_range():
    video, captions = draw_clips(16, 5, 24, 40, seed=1)
    assert video.shape == (16, 3, 5, 24, 40) and video.dtype == torch.float32 and len(captions) == 16
    assert video.min() >= -1 and video.max() <= 1
    assert video.flatten(1).std(dim=1).min() > 0, "a clip of a single colour"


@pytest.mark.parametrize("shape", [(0, 8, 8), (3, 0, 8), (3, 8, 0)], ids=str)
def test_empty_clips_are_refused(shape):
    with pytest.raises(ValueError, match="at least one frame and pixel"):
        draw_clips(1, *shape)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("moving left", 0, -1), ("moving right", 0, 1), ("moving up", 1, -1), ("moving down", 1, 1)],
    ids=lambda value: str(value),
)
def test_moving_objects_move_as_captioned(motion, axis, sign):
    place = centroid(moving_object(motion))
    along, across = place[axis], place[1 - axis]
    assert (sign * along.diff(dim=1) > 0).all()
    assert (along[:, -1] - along[:, 0]).abs().min() > 0.3 * (WIDTH, HEIGHT)[axis]
    assert across.diff(dim=1).abs().max() < 0.6


@pytest.mark.parametrize(("motion", "sign"), [("growing", 1), ("shrinking", -1)], ids=str)
def test_sizes_change_as_captioned(motion, sign):
    area = moving_object(motion, radius=0.09).sum((-1, -2))
    assert (sign * area.diff(dim=1) > 0).all()
    assert torch.allclose(area.amax(1) / area.amin(1), torch.tensor(9.0), rtol=0.25)


def test_bouncing_objects_go_down_and_up_again_on_the_spot():
    column, row = centroid(moving_object("bouncing", radius=0.09))
    assert column.diff(dim=1).abs().max() < 0.6
    turns = (row.diff(dim=1).sign().diff(dim=1) != 0).sum(dim=1)
    assert (turns >= 3).all(), f"a ball turns at every floor and at every top, got {turns}"
    assert (row.amax(1) - row.amin(1) > 0.3 * HEIGHT).all()


def test_orbiting_objects_keep_their_distance_from_a_centre():
    column, row = centroid(moving_object("orbiting", radius=0.09))
    x, y = column / WIDTH, row / HEIGHT
    # three points of a circle give its centre
    chords = torch.stack([x[:, [8, 16]] - x[:, :1], y[:, [8, 16]] - y[:, :1]], dim=-1)
    middle = torch.linalg.solve(chords, chords.square().sum(-1, keepdim=True) / 2)[..., 0]
    distance = torch.hypot(x - x[:, :1] - middle[:, :1], y - y[:, :1] - middle[:, 1:])
    assert distance.std(dim=1).max() < 0.02 and distance.min() > 0.1


def test_spinning_objects_turn_on_the_spot():
    share = moving_object("spinning", shape=words.SHAPES.index("square"), radius=0.2)
    column, row = centroid(share)
    assert column.diff(dim=1).abs().max() < 0.6 and row.diff(dim=1).abs().max() < 0.6
    assert (share[:, 1:] - share[:, :1]).abs().sum((-1, -2)).amax(1).min() > 10, "no pixel changed"


@pytest.mark.parametrize("shape", words.SHAPES)
def test_shapes_have_the_area_of_their_circle(shape):
    radius = torch.tensor(20.0)
    x, y = torch.arange(-64, 64)[None] + 0.5, torch.arange(-64, 64)[:, None] + 0.5
    area = (0.5 - DISTANCES[shape](x, y, radius)).clamp(0, 1).sum()
    assert area == pytest.approx(math.pi * 20**2, rel=0.02)


def test_shapes_differ_and_point_up():
    radius = torch.tensor(20.0)
    x, y = torch.arange(-40, 40)[None] + 0.5, torch.arange(-40, 40)[:, None] + 0.5
    inside = {shape: DISTANCES[shape](x, y, radius) < 0 for shape in words.SHAPES}
    widths = {shape: mask.any(0).sum().item() for shape, mask in inside.items()}
    assert widths == {"circle": 40, "square": 36, "triangle": 54, "star": 54}
    for shape in ("triangle", "star"):
        topmost = inside[shape].any(1).nonzero()[0]
        assert inside[shape][topmost].sum() <= 2 and inside[shape][topmost, 39:41].any()


def test_every_object_contrasts_with_every_background():
    colours = torch.tensor(list(words.OBJECT_COLOURS.values()))
    tones = torch.tensor(list(words.BACKGROUND_TONES.values())).flatten(0, 1)
    assert torch.cdist(colours, tones).min() > 0.3


def test_captions_say_what_is_drawn():
    video, captions = draw_clips(32, 3, 48, 48, seed=5)
    for clip, text in zip(video, captions, strict=True):
        colours = [word for word in text.split() if word in words.OBJECT_COLOURS]
        assert len(colours) == 1 + text.count(" and ")
        # the last object is in front
        wanted = torch.tensor(words.OBJECT_COLOURS[colours[-1]])[:, None, None, None] * 2 - 1
        assert ((clip - wanted).abs().amax(0) < 0.02).sum() > 10, text


def test_an_absent_object_is_not_drawn():
    both = replace(sample_scene(4, seed=2), present=torch.ones(4, 2, dtype=torch.bool))
    alone = replace(both, present=torch.tensor([[True, False]] * 4))
    assert (draw_scene(both, 1, 48, 48) != draw_scene(alone, 1, 48, 48)).flatten(1).any(1).all()
    assert all(" and " in text for text in both.captions())
    assert not any(" and " in text for text in alone.captions())


def test_seven_tenths_of_clips_have_one_object():
    single = [" and " not in text for text in sample_scene(4000, seed=0).captions()]
    assert sum(single) / 4000 == pytest.approx(0.7, abs=0.03)


def test_two_objects_differ_in_colour_and_no_circle_spins():
    scene = sample_scene(4000, seed=0)
    assert (scene.colour[:, 0] != scene.colour[:, 1]).all()
    spinning = scene.motion == words.MOTIONS.index("spinning")
    assert spinning.any() and not (spinning & (scene.shape == words.SHAPES.index("circle"))).any()


def test_tables_are_complete():
    assert set(MOTION_PATHS) == set(words.MOTIONS) and set(DISTANCES) == set(words.SHAPES)
    assert not set(words.OBJECT_COLOURS) & set(words.BACKGROUND_TONES)


def test_tokenizer_knows_every_word():
    tokenizer = build_tokenizer()
    captions = sample_scene(2000, seed=3).captions()
    ids = tokenizer(captions).input_ids
    assert not any(tokenizer.unk_token_id in row for row in ids)
    assert all(row[-1] == tokenizer.eos_token_id and row.count(1) == 1 for row in ids)
    assert max(len(row) for row in ids) <= 32
    assert {word for text in captions for word in text.split()} == set(words.vocabulary())
    assert tokenizer("").input_ids == [1] and tokenizer("zebra").input_ids == [2, 1]


def test_shipped_pipeline_loads_and_answers_to_its_prompt():
    pipeline = WanPipeline.from_pretrained(DEMO_VIDEO, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"height": 48, "width": 64, "num_frames": 5, "num_inference_steps": 4, "guidance_scale": 4.0}
    seen = {
        background: pipeline(
            f"a red circle bouncing over a {background} plain background",
            **settings,
            max_sequence_length=DEMO_SETTINGS["max_sequence_length"],
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).frames
        for background in ("black", "ivory")
    }
    assert seen["black"].shape == (1, 5, 3, 48, 64)
    assert seen["black"].median() < 0.2 and seen["ivory"].median() > 0.6


def test_shipped_tokenizer_knows_the_world_and_the_prompts():
    tokenizer = AutoTokenizer.from_pretrained(DEMO_VIDEO / "tokenizer")
    assert len(DEMO_PROMPTS) >= 8
    for text in (*DEMO_PROMPTS, " ".join(words.vocabulary())):
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text
