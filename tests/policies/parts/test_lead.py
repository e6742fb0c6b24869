"""Tokens before the video and after it at once: every method keeps both whole, and keeping all is dense."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from accel.kernels.attention.reference import block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.parts.ordering.orders import Hilbert
from accel.policies.parts.scores import Strided
from accel.policies.parts.selectors import TopK, TopP
from accel.policies.permuted import Permuted
from accel.policies.radial import Radial

BLOCK = (16, 16)
GRIDS = [TokenGrid(4, 6, 9, 21, lead_tokens=37), TokenGrid(4, 6, 9, 21, text_first=True, lead_tokens=16)]


def methods(sparse: bool) -> dict:
    share = 0.1 if sparse else 1.0
    return {
        "radial": Radial(decay=0.1 if sparse else 1.0, block_size=BLOCK),
        "draft": Draft(density=share, region=(3, 3), block_size=BLOCK),
        "permuted": Permuted(segment=32, probes=16, select=TopP(share), block_size=BLOCK),
        "hip": Hip(density=share, block_size=BLOCK),
        "compose": Composed(score=Strided(4, 4), select=TopK(share), order=Hilbert(), block_size=BLOCK),
    }


def qkv(grid):
    return [torch.randn(1, 2, grid.tokens, 16, dtype=torch.float64) * 2 for _ in range(3)]


@pytest.mark.filterwarnings("ignore:radial")
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", methods(True))
def test_lead_and_text_are_read_by_all_and_read_all(name, grid):
    q, k, _ = qkv(grid)
    layout = methods(True)[name].layout(q, k, grid, Context(grid))
    seen = layout.to_mask()[0].all(dim=0)
    video = torch.zeros(grid.tokens, dtype=torch.bool)
    video[grid.video_start : grid.video_start + grid.video_tokens] = True
    assert grid.video_start >= grid.lead_tokens and layout.density < 1
    assert seen[:, ~video].all() and seen[~video].all()


@pytest.mark.filterwarnings("ignore:radial")
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", [name for name in methods(False) if name != "radial"])
def test_keeping_everything_is_dense(name, grid):
    q, k, v = qkv(grid)
    layout = methods(False)[name].layout(q, k, grid, Context(grid))
    assert layout.density == 1
    torch.testing.assert_close(
        block_sparse_attention(q, k, v, layout)[0], scaled_dot_product_attention(q, k, v)
    )


def test_a_grid_refuses_less_than_no_lead():
    with pytest.raises(ValueError, match="lead_tokens and tail_tokens at least 0"):
        TokenGrid(1, 2, 3, lead_tokens=-1)
    assert str(TokenGrid(1, 2, 3, 4, lead_tokens=5)) == "5 + 1x2x3 + 4 text"
