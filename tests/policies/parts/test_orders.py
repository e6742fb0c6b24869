"""Orders: bijections on every grid, text last, and compact blocks."""

import pytest
import torch

from accel.kernels.layout.order import TokenOrder
from accel.patches.grid import TokenGrid
from accel.policies.parts.ordering.hilbert import hilbert_positions
from accel.policies.parts.ordering.orders import (
    Axes,
    Cycle,
    Hilbert,
    Residues,
    RowMajor,
    Tile,
    Windows,
    ordered_grid,
    token_order,
)

CPU = torch.device("cpu")
GRIDS = [TokenGrid(21, 45, 80), TokenGrid(13, 30, 45), TokenGrid(1, 64, 64), TokenGrid(31, 30, 52, 77)]
ORDERS = [
    Tile((4, 4, 8)),
    Tile((1, 8, 16)),
    Tile((6, 8, 8)),
    Tile((50, 50, 100)),
    Hilbert(),
    Residues((1, 2, 2)),
    Residues((50, 3, 100)),
    Windows((1, 2, 2), 4).at_turn(3),
    Windows((5, 70, 3), 2).at_turn(1),
    *(Axes(axes) for axes in ("fhw", "fwh", "hfw", "hwf", "wfh", "whf")),
]


def name(order):
    return str(order)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("order", ORDERS, ids=name)
def test_every_order_is_a_bijection_with_text_last(order, grid):
    tokens = TokenOrder.checked(token_order(order, grid, CPU).indices)
    assert tokens.length == grid.tokens
    assert torch.equal(tokens.indices[grid.video_tokens :], torch.arange(grid.video_tokens, grid.tokens))


def test_text_before_the_video_comes_last_too():
    grid = TokenGrid(3, 4, 5, 7, text_first=True)
    indices = token_order(Tile((1, 2, 2)), grid, CPU).indices
    assert indices[-7:].tolist() == list(range(7)) and indices[0] == 7
    assert not ordered_grid(Tile((1, 2, 2)), grid).text_first


def test_history_before_the_video_comes_after_it_and_before_text():
    grid = TokenGrid(3, 4, 5, 7, lead_tokens=6)
    indices = token_order(Tile((1, 2, 2)), grid, CPU).indices
    assert indices[0] == 6 and indices[60:66].tolist() == list(range(6))
    assert indices[66:].tolist() == list(range(66, 73))
    ordered = ordered_grid(Tile((1, 2, 2)), grid)
    assert (ordered.tokens, ordered.video_start, ordered.text_tokens) == (73, 0, 13)


def test_row_major_is_no_order_at_all():
    grid = TokenGrid(3, 4, 5, 7, text_first=True)
    assert token_order(RowMajor(), grid, CPU) is None
    assert ordered_grid(RowMajor(), grid) is grid


def test_tiles_of_the_published_region_order():
    """D0 of the draft vectors."""
    grid = TokenGrid(1, 4, 6)
    expected = "0 1 2 6 7 8 3 4 5 9 10 11 12 13 14 18 19 20 15 16 17 21 22 23"
    assert Tile((1, 2, 3)).positions(grid).tolist() == [int(i) for i in expected.split()]
    assert Tile((1, 2, 3)).positions(TokenGrid(1, 3, 5)).tolist() == [
        *(0, 1, 2, 5, 6, 7),
        *(3, 4, 8, 9, 10, 11, 12, 13, 14),
    ]


def test_whole_tiles_fill_blocks_exactly():
    grid = TokenGrid(9, 13, 21)
    positions = Tile((4, 4, 8)).positions(grid)
    whole = 2 * 3 * 2
    for block in positions[: whole * 128].reshape(whole, 128):
        frame, row, column = block // 273, block // 21 % 13, block % 21
        assert [int(x.max() - x.min()) for x in (frame, row, column)] == [3, 3, 7]


def test_axes_are_slowest_first():
    grid = TokenGrid(2, 3, 4)
    assert Axes("fhw").positions(grid).tolist() == list(range(24))
    assert Axes("hwf").positions(grid).tolist()[:4] == [0, 12, 1, 13]


@pytest.mark.parametrize(
    "shape", [(4, 4, 4), (8, 16, 8), (1, 64, 64), (2, 6, 10), (1, 1, 9), (1, 1, 1)], ids=str
)
def test_hilbert_steps_to_a_neighbour(shape):
    steps = cell_steps(hilbert_positions(shape), shape)
    assert (steps.sum(dim=1) == 1).all()


@pytest.mark.parametrize("shape", [(21, 45, 80), (5, 5, 5), (31, 30, 52), (9, 24, 24), (2, 3, 1)], ids=str)
def test_hilbert_on_odd_sides_steps_far_seldom_and_never_very_far(shape):
    steps = cell_steps(hilbert_positions(shape), shape)
    assert (steps.sum(dim=1) > 1).float().mean() < 0.05 or len(steps) < 10
    assert steps.max() <= 3


def cell_steps(positions, shape):
    cells = torch.stack(
        [positions // (shape[1] * shape[2]), positions // shape[2] % shape[1], positions % shape[2]]
    )
    return (cells[:, 1:] - cells[:, :-1]).abs().T


def test_hilbert_blocks_are_compact():
    shape = (21, 45, 80)
    positions = hilbert_positions(shape)[: 75600 // 128 * 128].reshape(-1, 128)
    frame, row, column = positions // 3600, positions // 80 % 45, positions % 80
    spans = torch.stack([x.amax(1) - x.amin(1) + 1 for x in (frame, row, column)])
    assert spans.float().mean() < 9


@pytest.mark.parametrize("size", [(0, 4, 4), (4, 4), (4, 4, "wide")], ids=str)
def test_nonsense_tiles_are_refused(size):
    with pytest.raises(ValueError):
        Tile(size)


def test_residues_of_two_columns_come_one_after_the_other():
    assert Residues((1, 1, 2)).positions(TokenGrid(1, 2, 3)).tolist() == [0, 2, 3, 5, 1, 4]


def test_a_cycle_takes_turns_by_layer():
    orders = (Hilbert(), Axes("whf"), RowMajor())
    assert [Cycle(orders).of_layer(layer) for layer in range(4)] == [*orders, Hilbert()]


def test_windows_are_rolled_by_half_a_window_and_go_on_at_the_opposite_border():
    grid = TokenGrid(1, 1, 8)
    still, rolled = (Windows((1, 1, 2), shifts=2).at_turn(turn) for turn in (2, 3))
    assert still.windows(grid).flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert rolled.windows(grid).flatten().tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    assert rolled.positions(grid).tolist() == [2, 3, 4, 5, 0, 1, 6, 7]
    assert still.positions(grid).tolist() == list(range(8))


def test_windows_of_odd_sides_are_smaller_at_the_end():
    windows = Windows((1, 2, 2), shifts=4).at_turn(0).windows(TokenGrid(1, 5, 7))[0]
    assert windows.unique(return_counts=True)[1].tolist() == [3 * 4, 3 * 3, 2 * 4, 2 * 3]
