"""Always and Window: against token-level definitions on ragged grids."""

import itertools

import pytest
import torch

from accel.kernels.layout.layout import BlockLayout
from accel.patches.grid import TokenGrid
from accel.policies.parts.always import Always
from accel.policies.parts.ordering.orders import Axes, Hilbert, Residues, RowMajor, Tile, token_order
from accel.policies.parts.window import Window

CPU = torch.device("cpu")
GRIDS = [TokenGrid(3, 5, 7), TokenGrid(5, 4, 6, 9), TokenGrid(5, 4, 6, 9, True)]
ORDERS = [RowMajor(), Tile((2, 2, 4)), Hilbert(), Axes("whf")]
SIZE = (16, 32)


def any_overlap(allowed, grid, order):
    """Blocks with at least one allowed pair of tokens; `allowed` is bool [tokens, tokens]."""
    tokens = token_order(order, grid, CPU)
    if tokens is not None:
        allowed = allowed[tokens.indices][:, tokens.indices]
    rows = [part.any(0) for part in allowed.split(SIZE[0])]
    return torch.stack([torch.stack([cell.any() for cell in row.split(SIZE[1])]) for row in rows])


def pairs(grid, allowed):
    """Bool [tokens, tokens] from a rule on two video tokens' (frame, row, column); text sees and is seen."""
    out = torch.ones(grid.tokens, grid.tokens, dtype=torch.bool)
    places = list(itertools.product(range(grid.frames), range(grid.height), range(grid.width)))
    for a, x in enumerate(places):
        for b, y in enumerate(places):
            out[a + grid.video_start, b + grid.video_start] = a == b or allowed(x, y)
    return out


RULES = {
    "nothing": (Always(), lambda x, y: False),
    "first_frame": (Always(first_frame=True), lambda x, y: y[0] == 0),
    "own_frame": (Always(own_frame=True), lambda x, y: x[0] == y[0]),
    "adjacent": (Always(adjacent=True), lambda x, y: max(abs(a - b) for a, b in zip(x, y, strict=True)) <= 1),
}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
@pytest.mark.parametrize("rule", RULES)
def test_blocks_are_those_with_a_pair_that_is_always_kept(rule, order, grid):
    always, allowed = RULES[rule]
    keep = always.blocks(grid, order, SIZE, CPU)
    assert torch.equal(keep, any_overlap(pairs(grid, allowed), grid, order))


def window_rule(window, grid):
    shape = (grid.frames, grid.height, grid.width)

    def allowed(x, y):
        for axis, (i, j, length) in enumerate(zip(x, y, shape, strict=True)):
            side, step = min(window.size[axis], length), window.stride[axis]
            middle = min(i // step * step + step // 2, length - 1)
            start = min(max(middle - side // 2, 0), length - side)
            if not start <= j < start + side:
                return False
        return True

    return allowed


WINDOWS = [
    Window((1, 3, 3)),
    Window((3, 2, 4), (2, 2, 4)),
    Window((99, 3, 5), (1, 2, 1)),
    Window((2, 2, 4), (2, 2, 4)),
]


@pytest.mark.parametrize("grid", [*GRIDS, TokenGrid(1, 9, 11)], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w.size}-{w.stride}")
def test_windows_keep_every_block_they_touch(window, grid):
    allowed = any_overlap(pairs(grid, window_rule(window, grid)), grid, RowMajor())
    assert torch.equal(Always(window=window).blocks(grid, RowMajor(), SIZE, CPU), allowed)
    for order in (Hilbert(), Tile((2, 2, 4)), Axes("whf")):
        keep = Always(window=window).blocks(grid, order, SIZE, CPU)
        assert not (any_overlap(pairs(grid, window_rule(window, grid)), grid, order) & ~keep).any()


def test_a_window_of_whole_tiles_is_exact():
    """Sliding tile attention (arXiv 2502.04507): 3 x 3 x 3 tiles, moved inwards at borders."""
    grid, tile = TokenGrid(8, 12, 16), (2, 4, 4)
    keep = Always(window=Window((6, 12, 12), tile)).blocks(grid, Tile(tile), (32, 32), CPU)
    tiles = list(itertools.product(range(4), range(3), range(4)))
    for a, x in enumerate(tiles):
        centre = [min(max(i, 1), n - 2) for i, n in zip(x, (4, 3, 4), strict=True)]
        expected = [all(abs(c - j) <= 1 for c, j in zip(centre, y, strict=True)) for y in tiles]
        assert keep[a].tolist() == expected
        assert sum(expected) == 27


def dilated_rule(window, grid):
    """A window among the places of one remainder: the same rule on each axis's quotients."""

    def allowed(x, y):
        quotients = []
        for i, j, step in zip(x, y, window.dilation, strict=True):
            if i % step != j % step:
                return False
            quotients.append((i // step, j // step))
        lengths = [
            len(range(i % step, length, step))
            for i, step, length in zip(
                x, window.dilation, (grid.frames, grid.height, grid.width), strict=True
            )
        ]
        return window_rule(window, TokenGrid(*lengths))(*zip(*quotients, strict=True))

    return allowed


@pytest.mark.parametrize("grid", [*GRIDS, TokenGrid(1, 9, 11)], ids=str)
@pytest.mark.parametrize("dilation", [(1, 2, 2), (2, 1, 3), (7, 7, 7)], ids=str)
def test_dilated_windows_keep_every_block_they_touch(dilation, grid):
    window = Window((2, 3, 3), dilation=dilation)
    for order in (RowMajor(), Residues(dilation), Hilbert()):
        keep = Always(window=window).blocks(grid, order, SIZE, CPU)
        assert not (any_overlap(pairs(grid, dilated_rule(window, grid)), grid, order) & ~keep).any()


def test_residues_put_a_dilated_window_into_fewer_blocks():
    grid, window = TokenGrid(1, 32, 32), Window((1, 8, 8), dilation=(1, 4, 4))
    scattered, together = (
        Always(window=window).blocks(grid, order, (64, 64), CPU).float().mean()
        for order in (RowMajor(), Residues((1, 4, 4)))
    )
    assert together == 1 / 16 and scattered == 1 / 2


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
@pytest.mark.parametrize(("count", "frames"), [(1, {0}), (2, {0, 2}), (3, {0, 1, 3})])
def test_reference_frames_are_spread_and_see_and_are_seen(count, frames, order):
    """Of five frames; 2 x 5 // 3 = 3."""
    grid = GRIDS[1]
    keep = Always(reference_frames=count).blocks(grid, order, SIZE, CPU)
    allowed = pairs(grid, lambda x, y: x[0] in frames or y[0] in frames)
    assert torch.equal(keep, any_overlap(allowed, grid, order))


def test_a_band_follows_the_order():
    """Of 105 tokens a tenth is a reach of 5: a block of 16 queries also sees the keys 5 before and behind."""
    keep = Always(band=0.1).blocks(GRIDS[0], Axes("whf"), (16, 16), CPU)
    distance = (torch.arange(7)[:, None] - torch.arange(7)).abs()
    assert torch.equal(keep, distance <= 1)
    assert Always(band=2).blocks(GRIDS[0], RowMajor(), SIZE, CPU).all()


def test_powers_of_two_and_every_few_blocks():
    powers = Always(powers=True).sequence_blocks(160, 160, (16, 16), CPU)
    assert powers[9].nonzero().flatten().tolist() == [1, 5, 7, 8, 9]  # 8, 4, 2, 1 blocks back, and its own
    every = Always(every=4).sequence_blocks(160, 160, (16, 16), CPU)
    assert every[9].nonzero().flatten().tolist() == [0, 4, 8, 9]


def test_a_window_of_the_grid_is_dense():
    grid = TokenGrid(3, 5, 7, 2)
    assert Always(window=Window((3, 5, 7))).blocks(grid, Hilbert(), SIZE, CPU).all()


@pytest.mark.parametrize("lengths", [(100, 100), (40, 100), (1, 77)], ids=str)
def test_sink_and_recent_tokens_of_a_sequence(lengths):
    q_len, kv_len = lengths
    keep = Always(sink=20, recent=33).sequence_blocks(q_len, kv_len, SIZE, CPU)
    query = torch.arange(q_len)[:, None] + kv_len - q_len
    key = torch.arange(kv_len)
    allowed = (key <= query) & ((key < 20) | (key >= query - 33))
    tokens = BlockLayout.from_mask(keep[None, None], SIZE, q_len, kv_len, causal=True).to_mask()[0, 0]
    assert not (allowed & ~tokens).any()
    if q_len == kv_len:
        assert keep.sum() < keep.numel()


def test_what_needs_a_grid_or_none_says_so():
    with pytest.raises(ValueError, match="without a grid, got sink=4"):
        Always(sink=4).blocks(GRIDS[0], RowMajor(), SIZE, CPU)
    with pytest.raises(ValueError, match="need a token grid"):
        Always(own_frame=True).sequence_blocks(10, 10, SIZE, CPU)
    with pytest.raises(ValueError, match=r"stride must not exceed size, got \(3, 1, 1\) and \(2, 1, 1\)"):
        Window((2, 1, 1), (3, 1, 1))


def test_neighbours_are_the_blocks_beside_the_query_s_own():
    grid = TokenGrid(1, 6, 8)
    found = Always(neighbours=1).blocks(grid, RowMajor(), (8, 8), torch.device("cpu"))
    rows, columns = torch.arange(6)[:, None], torch.arange(6)
    assert torch.equal(found, (rows - columns).abs() <= 1)
    wide = Always(neighbours=2).blocks(grid, RowMajor(), (16, 8), torch.device("cpu"))
    assert [row.nonzero().flatten().tolist() for row in wide] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
        [2, 3, 4, 5],
    ]
