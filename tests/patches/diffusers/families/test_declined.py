"""Every transformer of the installed diffusers is supported or declined, with a reason one is told."""

import importlib
import inspect
import pkgutil
from collections import Counter

import diffusers
import diffusers.models.transformers
import torch
from diffusers.models.attention_processor import Attention
from pytest import mark, raises
from torch import nn

from accel import accelerate_model
from accel.patches.diffusers.declined import DECLINED, counted
from accel.patches.diffusers.family import FAMILIES


def transformers_of_diffusers() -> set[str]:
    """The model classes that are defined in diffusers' folder of transformers."""
    folder = diffusers.models.transformers
    modules = [
        importlib.import_module(f"{folder.__name__}.{m.name}") for m in pkgutil.iter_modules(folder.__path__)
    ]
    return {
        name
        for module in modules
        for name, cls in vars(module).items()
        if inspect.isclass(cls)
        and issubclass(cls, diffusers.ModelMixin)
        and cls.__module__ == module.__name__
    }


def test_every_transformer_is_supported_or_declined():
    known = (set(FAMILIES) | set(DECLINED)) - {"UNet2DConditionModel", "DreamLiteUNetModel"}
    assert transformers_of_diffusers() == known, "support it, or say in patches/diffusers/declined.py why not"
    assert not set(FAMILIES) & set(DECLINED)


@mark.parametrize("name", FAMILIES)
def test_every_family_has_a_file(name):
    source = importlib.import_module(FAMILIES[name])
    assert source.PROCESSORS and source.__doc__


def test_a_declined_model_says_why():
    model = diffusers.Transformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=8, norm_num_groups=4
    )
    with raises(TypeError, match=f"left as it is: {DECLINED['Transformer2DModel']}"):
        accelerate_model(model)


class Stranger(nn.Module):
    """A model nobody listed, with two attention modules that have processors, and one of PyTorch's."""

    def __init__(self, layers: int = 2):
        super().__init__()
        self.layers = nn.ModuleList(Attention(8, heads=1, dim_head=8) for _ in range(layers))
        self.refiner = nn.MultiheadAttention(8, 1)


def test_a_stranger_is_told_what_was_found_and_what_to_do():
    found = (
        "Found 2 attention modules that look like Attention with AttnProcessor2_0 in Stranger; not supported"
    )
    with raises(TypeError, match=f"{found} because no family says .* CONTRIBUTING.md"):
        accelerate_model(Stranger())
    found = "Found 1 attention module that looks like MultiheadAttention in Stranger; not supported because"
    with raises(TypeError, match=f"{found} they have no processor"):
        accelerate_model(Stranger(layers=0))
    with raises(TypeError, match="Linear has no attention module"):
        accelerate_model(torch.nn.Linear(2, 2))


def test_a_strange_model_in_a_pipeline_is_told_of_too():
    class StrangePipeline(diffusers.DiffusionPipeline):
        def __init__(self, transformer):
            super().__init__()
            self.register_modules(transformer=transformer)

    with raises(TypeError, match=r"Its models are Stranger\. Found 2 attention modules"):
        accelerate_model(StrangePipeline(Stranger()))


def test_kinds_are_counted_in_words():
    assert counted(Counter(A=1, B=2, C=1)) == (
        "1 attention module that looks like A and 2 that look like B and 1 that looks like C"
    )
