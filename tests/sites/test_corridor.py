"""The way from a model's layer to the kernel is short: few frames of ours, and the tier chosen once."""

import sys
from pathlib import Path

import torch
from pytest import mark

import tiny
import tiny_language
from accel import accelerate_model
from accel.kernels.attention import gathered, tiers
from accel.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / folder) for folder in ("accel", "kernels", "patches"))
MOST_FRAMES = 9


def video():
    model = tiny.wan()
    recipe = {"method": "radial", "block_size": [16, 16]}
    return model, {"rules": [{"match": "*", "policy": recipe}]}, tiny.inputs(model)


def text():
    recipe = {"method": "permuted", "segment": 32, "block_size": [32, 32]}
    rules = [{"match": "*", "policy": recipe}]
    inputs = {"input_ids": tiny_language.tokens(150), "use_cache": False}
    return tiny_language.llama(), {"schedule": {"min_tokens": 0}, "rules": rules}, inputs


def is_ours(frame) -> bool:
    return frame.f_code.co_filename.startswith(OURS)


def ours_above(frame) -> list[str]:
    """Our frames on the stack, the innermost first."""
    found = []
    while frame is not None:
        if is_ours(frame):
            found.append(f"{Path(frame.f_code.co_filename).name} {frame.f_code.co_qualname}")
        frame = frame.f_back
    return found


@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
@torch.no_grad()
def test_few_frames_lie_between_a_layer_and_the_kernel(kind):
    model, recipe, inputs = kind()
    accelerate_model(model, Recipe.model_validate(recipe))
    kernel, stacks, chosen = gathered.block_sparse_attention.__code__, [], []

    def profile(frame, event, _):
        if event != "call" or not is_ours(frame):
            return
        if frame.f_code is kernel:
            stacks.append(ours_above(frame))
        if frame.f_code is tiers.choose_tier.__code__:
            chosen.append(ours_above(frame))

    model(**inputs)
    sys.setprofile(profile)
    try:
        model(**inputs)
    finally:
        sys.setprofile(None)
    assert len(stacks) == len(chosen) > 0
    for stack in stacks:
        assert len(stack) <= MOST_FRAMES, "\n".join(stack)
