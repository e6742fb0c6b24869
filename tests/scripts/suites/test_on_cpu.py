"""What diffusers' tests leave out on a CPU, or make dense by random positions, runs."""

import pytest
import torch

from scripts.suites.compile_on_cpu import wants_accelerator
from scripts.suites.positions import inputs_on_grid, on_grid


def test_random_positions_become_those_of_a_grid():
    torch.manual_seed(0)
    inputs = inputs_on_grid(lambda count: {"img_ids": torch.randn(count, 3), "other": 1})(12)
    grid = inputs["img_ids"]
    assert grid.tolist()[:5] == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3], [0, 1, 0]]
    assert inputs["other"] == 1 and on_grid(grid) is grid
    assert on_grid(torch.randn(7, 4))[:, 3].tolist() == [*range(7)]


def test_only_the_missing_accelerator_is_no_reason_to_skip():
    skip = pytest.mark.skipif
    assert wants_accelerator(skip(True, reason="test requires a hardware accelerator").mark)
    assert not wants_accelerator(skip(True, reason="test requires bitsandbytes").mark)
    assert not wants_accelerator(pytest.mark.usefixtures("rows").mark)
