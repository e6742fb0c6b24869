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
from accel.policies.parts.head_choice import SampledRows
from accel.policies.parts.ordering.content_orders import Clusters
from accel.policies.parts.ordering.orders import Hilbert, Tile, Windows
from accel.policies.parts.scores import Strided
from accel.policies.parts.selectors import TopK, TopP
from accel.policies.parts.window import Window
from accel.policies.per_head import PerHead
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


# Two further videos among the lead tokens, and 7 + 9 + 3 tokens that belong to neither.
SPANS = TokenGrid(4, 6, 9, lead_tokens=19 + 96 + 60, spans=((7, 2, 6, 8), (112, 1, 6, 10)))
UNSCORED = {
    **{name: method for name, method in methods(True).items() if name != "compose"},
    "window": Composed(order=Tile((1, 3, 3)), always={"window": Window((3, 3, 3))}, block_size=BLOCK),
    "shifted-windows": Composed(order=Windows((1, 2, 2), 4), block_size=BLOCK),
    "band": Composed(always={"band": 0.2, "first_frame": True}, block_size=BLOCK),
    "clusters": Composed(order=Clusters(4, 2), score=Strided(4, 4), select=TopK(0.1), block_size=BLOCK),
    "per-head": PerHead(
        (Composed(block_size=BLOCK), Composed(order=Hilbert(), block_size=BLOCK)), SampledRows(8)
    ),
}
SCORED = {
    **{name: method for name, method in methods(True).items() if name == "compose"},
    "shifted-windows": Composed(
        order=Windows((1, 2, 2), 4), score=Strided(4, 4), select=TopK(0.1), block_size=BLOCK
    ),
    "per-head": PerHead((methods(True)["compose"],) * 2, SampledRows(8)),
}


def seen_by_all_heads(method, grid):
    q, k, _ = qkv(grid)
    layout = method.layout(q, k, grid, Context(grid))
    assert layout.density < 1
    return layout.to_mask()[0].all(dim=0)


@pytest.mark.filterwarnings("ignore:radial")
@pytest.mark.parametrize("name", UNSCORED)
def test_further_videos_are_kept_whole_by_methods_that_do_not_score_blocks(name):
    seen = seen_by_all_heads(UNSCORED[name], SPANS)
    assert seen[:, : SPANS.lead_tokens].all() and seen[: SPANS.lead_tokens].all()
    assert not seen.all()


@pytest.mark.parametrize("name", SCORED)
def test_further_videos_are_chosen_among_and_what_is_between_them_is_kept_whole(name):
    seen = seen_by_all_heads(SCORED[name], SPANS)
    between = torch.ones(SPANS.tokens, dtype=torch.bool)
    for place in (*(span.place for span in SPANS.spans), slice(SPANS.video_start, None)):
        between[place] = False
        assert not seen[place, place].all() or SPANS.spans[1].place == place
    assert between.sum() == 19 and seen[:, between].all() and seen[between].all()


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
