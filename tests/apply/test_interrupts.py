"""Ctrl-C at any line of applying or restoring: a model is accelerated whole or not at all, and comes back."""

import sys
from pathlib import Path

import torch
from pytest import mark

import tiny
import tiny_language
from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of
from accel.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / folder) for folder in ("accel", "patches", "kernels"))
VIDEO = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "draft", "region": [2, 2], "block_size": [16, 16]}}]}
)
TEXT = Recipe.model_validate(
    {
        "schedule": {"min_tokens": 0},
        "rules": [{"match": "*", "policy": {"method": "permuted", "segment": 32, "block_size": [32, 32]}}],
    }
)


class InterruptAt:
    """Raises KeyboardInterrupt at the n-th line of this project that is executed inside the block."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def _call(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def interrupted(line, function, *args) -> bool:
    """Whether an interrupt at that line came before the function was done."""
    try:
        with InterruptAt(line):
            function(*args)
    except KeyboardInterrupt:
        return True
    return False


def video():
    model = tiny.wan(num_layers=2)
    return model, VIDEO, tiny.inputs(model), 1


def text():
    model = tiny_language.llama()
    return model, TEXT, {"input_ids": tiny_language.tokens(150), "use_cache": False}, 4


@torch.no_grad()
def output(model, inputs):
    return model(**inputs)[0]


def traces(model) -> list:
    """Whatever acceleration leaves on a model."""
    found = [len(model._forward_pre_hooks), len(model._forward_hooks)]
    found += [type(getattr(module, "processor", None)) for module in model.modules()]
    found += [sorted(vars(module)) for module in model.modules()]
    return [*found, getattr(model.config, "_attn_implementation", None)]


def assert_whole_or_gone(model, clean) -> None:
    if patches_of(model):
        (patch,) = patches_of(model)
        assert [one.site.name for one in patch.installed] == [step.site.name for step in patch.plan.matched]
        assert all(site.in_force for site in summary(model).sites)
    else:
        assert traces(model) == clean


@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
def test_an_interrupt_while_applying(kind):
    model, recipe, inputs, stride = kind()
    expected, clean = output(model, inputs), traces(model)
    accelerate_model(model, recipe)
    restore_model(model)
    line, met = 1, 0
    while interrupted(line, accelerate_model, model, recipe):
        assert_whole_or_gone(model, clean)
        assert traces(restore_model(model)) == clean, line
        line, met = line + stride, met + 1
    assert met > 50
    assert torch.equal(output(restore_model(model), inputs), expected)


@mark.parametrize("kind", [video, text], ids=lambda kind: kind.__name__)
def test_an_interrupt_while_restoring_is_made_good_by_restoring_again(kind):
    model, recipe, inputs, stride = kind()
    expected, clean = output(model, inputs), traces(model)
    line, met = 1, 0
    accelerate_model(model, recipe)
    while interrupted(line, restore_model, model):
        output(model, inputs)
        assert traces(restore_model(model)) == clean, line
        accelerate_model(model, recipe)
        line, met = line + stride, met + 1
    assert met > 20 and traces(model) == clean
    assert torch.equal(output(model, inputs), expected)
