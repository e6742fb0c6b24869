"""The grid comes from the real forward: landscape, portrait, square, short, long, batched."""

import torch
from pytest import mark

import tiny
from accel.patches.diffusers.forwards.clock import Clock
from accel.patches.diffusers.forwards.forward import end
from accel.patches.diffusers.forwards.root_hook import RootHook
from accel.patches.diffusers.install import install
from accel.patches.models import find_sites

SIZES = [(720, 1280), (1280, 720), (640, 640), (480, 832)]
FRAMES = {41: 11, 81: 21, 121: 31}


@mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@mark.parametrize("frames", FRAMES, ids="{}f".format)
@torch.no_grad()
def test_grid_is_that_of_the_input(size, frames):
    model = tiny.wan(num_layers=1, num_attention_heads=1, ffn_dim=8)
    hook, seen = RootHook(Clock()), []

    def attention(q, k, v, mask, dense):
        seen.append((hook.forward.context.grid, q.shape[1]))
        return v

    hook.attach(model)
    (site,) = find_sites(model)
    install(model, site, attention)
    model(**tiny.inputs(model, FRAMES[frames], size[0] // 8, size[1] // 8))
    ((grid, tokens),) = seen
    assert (grid.frames, grid.height, grid.width) == (FRAMES[frames], size[0] // 16, size[1] // 16)
    assert grid.tokens == tokens


@torch.no_grad()
def test_an_unreadable_input_is_the_models_to_judge():
    model = tiny.wan(num_layers=1)
    hook = RootHook(Clock())
    hook.attach(model)
    hook.before(model, (), {"timestep": torch.zeros(1)})
    forward = end(hook)
    assert forward.context.grid is None and "hidden_states" in forward.dense
