"""Two hundred times in and out, with forwards in between, leave no object, slot, hook or name behind."""

import gc
from collections import Counter

import torch
from pytest import mark

import tiny
import tiny_language
from accel import accelerate_model, restore_model
from accel.patches.slot import _SLOTS
from accel.recipe.recipe import Recipe

CYCLES = 200
VIDEO = {"method": "draft", "region": [2, 2], "block_size": [16, 16]}
TEXT = {"method": "permuted", "segment": 32, "block_size": [32, 32]}


def recipe(policy) -> Recipe:
    rules = [{"match": "*", "policy": policy, "reuse": {"steps": 2}}]
    return Recipe.model_validate({"schedule": {"min_tokens": 0}, "rules": rules})


def video():
    model = tiny.wan(num_layers=2)
    return model, recipe(VIDEO), tiny.inputs(model, 1, 8, 8)


def text():
    model = tiny_language.llama()
    return model, recipe(TEXT), {"input_ids": tiny_language.tokens(70), "use_cache": False}


def objects() -> Counter:
    """How many objects of ours, and how many tensors, are alive."""
    gc.collect()
    kinds = [type(thing) for thing in gc.get_objects()]
    return Counter(
        kind for kind in kinds if kind is torch.Tensor or str(kind.__module__).startswith("accel.")
    )


def hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
@torch.no_grad()
def test_cycles_with_forwards_leave_nothing(kind):
    model, chosen, inputs = kind()
    expected, before = model(**inputs)[0], hooks(model)

    def cycle(count):
        for _ in range(count):
            accelerate_model(model, chosen)(**inputs)
            restore_model(model)

    cycle(3)  # what is kept once for a shape is there from now on
    alive, slots = objects(), len(_SLOTS)
    cycle(CYCLES)
    grown = {kind.__name__: n for kind, n in (objects() - alive).items()}
    assert not grown and len(_SLOTS) == slots and hooks(model) == before
    assert torch.equal(model(**inputs)[0], expected)
