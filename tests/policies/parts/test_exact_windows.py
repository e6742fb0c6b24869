"""Exact windows: what a query sees is the rule of neighbourhood attention itself (arXiv 2504.16922)."""

from itertools import product

import pytest
import torch

from accel.kernels.attention import gathered
from accel.kernels.attention.reference import block_sparse_attention
from accel.kernels.layout.boxes import Boxes
from accel.patches.context import Context
from accel.patches.grid import Run, TokenGrid
from accel.policies.compose import Composed
from accel.policies.parts.always import Always
from accel.policies.parts.ordering.orders import Hilbert, Residues, RowMajor, Tile
from accel.policies.parts.scores import Pooled
from accel.policies.parts.selectors import TopK
from accel.policies.parts.window import Window

# The last also has text on both sides.
GRIDS = [TokenGrid(3, 5, 7), TokenGrid(1, 11, 6), TokenGrid(2, 4, 9, text_tokens=5, tail_tokens=3)]
ORDERS = [RowMajor(), Tile((1, 4, 4)), Residues((1, 2, 2)), Hilbert()]


def sees(query, key, length, size, stride, dilation, causal):
    """The published rule on one axis, for one pair."""
    if query % dilation != key % dilation:
        return False
    length = len(range(query % dilation, length, dilation))
    query, key, size = query // dilation, key // dilation, min(size, length)
    if causal:
        return max(query - size + 1, 0) <= key <= query
    leader = min(query // stride * stride + stride // 2, length - 1)
    start = min(max(leader - size // 2, 0), length - size)
    return start <= key < start + size


def rule(window, grid):
    """Bool [N, N]."""
    sides = grid.frames, grid.height, grid.width
    of_axes = zip(sides, window.size, window.stride, window.dilation, window.causal, strict=True)
    on_axes = [
        torch.tensor([[sees(i, j, side, *rest) for j in range(side)] for i in range(side)])
        for side, *rest in of_axes
    ]
    place = torch.cartesian_prod(*(torch.arange(side) for side in sides)).T
    inside = torch.ones(grid.video_tokens, grid.video_tokens, dtype=torch.bool)
    for seen, axis in zip(on_axes, place, strict=True):
        inside &= seen[axis[:, None], axis]
    whole = torch.ones(grid.tokens, grid.tokens, dtype=torch.bool)
    video = slice(grid.video_start, grid.video_start + grid.video_tokens)
    whole[video, video] = inside
    return whole


def exact(window, order=None, **rest):
    return Composed(always=Always(window=window), order=order or RowMajor(), block_size=(16, 16), **rest)


def planned(policy, grid, heads=1):
    q = torch.empty(1, heads, grid.tokens, 8)
    return policy.layout(q, q, grid, Context(grid=grid))


SIZES = [(1, 1, 1), (2, 3, 4), (3, 5, 2), (99, 4, 99)]
STRIDES = [(1, 1, 1), (1, 2, 2), (1, 3, 1)]
WINDOWS = [
    Window(size, stride, exact=True)
    for size, stride in product(SIZES, STRIDES)
    if all(step <= side for step, side in zip(stride, size, strict=True))
]
WINDOWS += [
    Window(size, causal=causal, exact=True)
    for size, causal in product(SIZES[1:], [(True, False, False), (False, True, True), (True, True, True)])
]
WINDOWS += [
    Window((2, 3, 2), dilation=(1, 2, 3), exact=True),
    Window((1, 2, 3), (1, 2, 1), dilation=(2, 2, 2), exact=True),
    Window((2, 2, 2), dilation=(1, 3, 2), causal=(True, False, True), exact=True),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_what_each_query_sees_is_the_rule(grid):
    for window, order in product(WINDOWS, ORDERS):
        assert torch.equal(planned(exact(window, order), grid).to_mask()[0, 0], rule(window, grid)), window


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
@pytest.mark.parametrize("grid", GRIDS[1:], ids=str)
def test_the_kernel_for_cpus_masks_inside_blocks(grid, order):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, grid.tokens, 8, generator=generator) for heads in (4, 2, 2))
    for window in WINDOWS[::4]:
        layout = exact(window, order).layout(q, k, grid, Context(grid=grid))
        calls = (one(q, k, v, layout) for one in (gathered.block_sparse_attention, block_sparse_attention))
        for found, expected in zip(*calls, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_whole_blocks_of_the_same_lists_hold_more():
    window = Window((1, 4, 4), (1, 2, 2), exact=True)
    cut, whole = (planned(exact(one), GRIDS[0]) for one in (window, Window((1, 4, 4), (1, 2, 2))))
    assert cut.dense_blocks == whole.dense_blocks and cut.density <= whole.density
    assert (cut.to_mask() <= whole.to_mask()).all() and cut.to_mask().sum() < whole.to_mask().sum()
    assert cut.complement.visibility is None


def test_blocks_are_whole_where_the_model_hides_tokens_itself():
    grid = TokenGrid(2, 4, 4, runs=(Run(16, 0, 0, 1), Run(16, 1, 1, 1)))
    window = Window((1, 2, 2), exact=True)
    assert planned(exact(window), grid).visibility is None
    assert planned(exact(window), TokenGrid(2, 4, 4)).visibility is not None


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="need more than 31 bits"):
        Boxes(tuple(tuple((i, i, i) for i in range(1024)) for _ in range(3)))
    with pytest.raises(ValueError, match="a causal axis has the stride 1"):
        Window((2, 2, 2), (1, 2, 1), causal=(False, True, False))
    window = Window((1, 4, 4), exact=True)
    for rest in ({"tail": True}, {"score": Pooled(), "select": TopK(0.5)}):
        with pytest.raises(ValueError, match="an exact window is all that is kept"):
            exact(window, **rest)
    with pytest.raises(ValueError, match="an exact window is all that is kept"):
        Composed(always=Always(window=window, own_frame=True))
