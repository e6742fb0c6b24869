"""Every transformer of the installed diffusers is supported or declined, with a reason one is told."""

import importlib
import inspect
import pkgutil

import diffusers
import diffusers.models.transformers
import torch
from diffusers.models.attention_processor import Attention
from pytest import mark, raises
from torch import nn

from accel import accelerate_model
from accel.patches.declined import DECLINED
from accel.patches.family import FAMILIES


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
    known = set(FAMILIES) | set(DECLINED)
    assert transformers_of_diffusers() == known, "support it, or say in patches/declined.py why not"
    assert not set(FAMILIES) & set(DECLINED)


@mark.parametrize("name", FAMILIES)
def test_every_family_has_a_file(name):
    source = importlib.import_module(FAMILIES[name])
    assert source.SEATED and source.__doc__


def test_a_declined_model_says_why():
    model = diffusers.Transformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=8, norm_num_groups=4
    )
    with raises(TypeError, match=f"left as it is: {DECLINED['Transformer2DModel']}"):
        accelerate_model(model)


class Stranger(nn.Module):
    """A model nobody listed, with two attention modules."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Attention(8, heads=1, dim_head=8) for _ in range(2))


def test_a_stranger_is_told_what_was_found():
    with raises(TypeError, match="Found 2 attention modules that look like Attention in Stranger"):
        accelerate_model(Stranger())
    with raises(TypeError, match="Linear has no attention module"):
        accelerate_model(torch.nn.Linear(2, 2))
