"""CONTRIBUTING.md's "Add a model", followed to the letter for a made-up model, in under 30 lines."""

import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import torch
from diffusers.models.attention_processor import Attention
from pytest import fixture, raises
from torch import nn

from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of
from accel.patches.diffusers.family import FAMILIES
from accel.patches.grid import TokenGrid
from accel.recipe.recipe import Recipe
from keep_everything import KeepEverything

GUIDE = Path(__file__).parents[4] / "CONTRIBUTING.md"
RADIAL = Recipe.model_validate(
    {"rules": [{"match": "*", "policy": {"method": "radial", "decay": 0.3, "block_size": [16, 16]}}]}
)


class ToyBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention(32, heads=2, dim_head=16)

    def forward(self, tokens):
        return tokens + self.attn(tokens * 4)


class ToyTransformer3DModel(nn.Module):
    """A made-up model: patches of 1 x 2 x 2, text first, joint attention."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv3d(4, 32, (1, 2, 2), (1, 2, 2))
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(3))

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        video = self.patch(hidden_states).flatten(2).transpose(1, 2)
        tokens = torch.cat([encoder_hidden_states, video], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, encoder_hidden_states.shape[1] :]


def code_of_the_guide() -> str:
    section = GUIDE.read_text().split("## Add a model")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return textwrap.dedent("   " + code.lstrip())


@fixture
def toy(monkeypatch):
    """The model, after steps 1 and 2."""
    module = ModuleType("accel.patches.toy")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code_of_the_guide(), "patches/toy.py", "exec"), vars(module))
    monkeypatch.setitem(FAMILIES, "ToyTransformer3DModel", "accel.patches.toy")
    return ToyTransformer3DModel().eval().requires_grad_(False)


def inputs(frames=3, height=8, width=10) -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.randn(2, 4, frames, 2 * height, 2 * width),
        "timestep": torch.full((2,), 500.0),
        "encoder_hidden_states": torch.randn(2, 21, 32),
    }


def test_without_the_guide_the_model_is_a_stranger():
    with raises(TypeError, match="Found 3 attention modules that look like Attention with AttnProcessor2_0"):
        accelerate_model(ToyTransformer3DModel())


def test_the_guide_takes_under_30_lines():
    assert len([line for line in code_of_the_guide().splitlines() if line.strip()]) < 30


def test_the_grid_is_right_and_keeping_everything_is_dense(toy):
    arguments = inputs()
    expected = toy(**arguments)
    accelerate_model(toy, RADIAL, method="dense")
    policy = KeepEverything()
    for one in patches_of(toy)[0].installed:
        one.attention.policy = policy
    torch.testing.assert_close(toy(**arguments), expected, atol=1e-5, rtol=1e-5)
    assert policy.grids[-1] == TokenGrid(3, 8, 10, 21, text_first=True)
    assert summary(toy).calls == 3 and summary(toy).sparse_density == 1


def test_it_runs_sparse_and_is_restored_bit_for_bit(toy):
    arguments = inputs(height=11, width=6)
    expected = toy(**arguments)
    accelerate_model(toy, RADIAL)
    assert not torch.equal(toy(**arguments), expected)
    account = summary(toy)
    assert account.sparse_density < 1 and not account.dense_reasons
    assert torch.equal(restore_model(toy)(**arguments), expected)
