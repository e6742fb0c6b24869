"""Launches are counted on tensors that only say they are on a GPU; the page has the counts of the script."""

from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from accel.kernels.layout.compact_lists import compact_lists
from accel.patches.grid import TokenGrid
from accel.recipe.files import load_recipe
from scripts.page import markdown
from scripts.speed.launches import HEAD, counted, of_call, rows

PAGE = Path(__file__).parents[3] / "docs" / "kernels.md"
SMALL = TokenGrid(3, 20, 30)


def test_a_threshold_by_mean_and_deviation_is_one_launch_on_the_masses():
    choosing, attending = of_call(load_recipe("sol-attn").rules[0].policy, SMALL, 2, 64)
    assert choosing.kernels == Counter(
        ["block_lse_kernel", "row_mass_kernel", "outstanding_kernel", "compact_kernel"]
    )
    assert not {"sqrt", "pow", "where", "gt"} & set(choosing.operators)
    assert {"block_sparse_kernel", "tail_means_kernel", "tail_kernel"} <= set(attending.kernels)


def test_strided_rows_are_read_from_where_they_are():
    choosing, _ = of_call(load_recipe("auto").rules[0].policy, SMALL, 2, 64)
    assert not {"index_select", "cat", "clone"} & set(choosing.operators)


def test_bytes_are_those_of_what_goes_in_and_comes_out():
    keep = torch.empty(1, 2, 3, 40, dtype=torch.bool, device="meta")
    with counted() as counts:
        compact_lists(keep)
        keep.view(-1).float()
    assert counts.moved == {"compact_kernel": 240 + 240 * 4 + 6 * 4, "_to_copy": 240 + 240 * 4}
    assert counts.kernels == {"compact_kernel": 1} and counts.operators == {"_to_copy": 1}


def test_the_page_has_these_counts():
    text = PAGE.read_text(encoding="utf-8")
    assert markdown(HEAD, []) in text
    (row,) = rows(["sol-attn"])
    assert "| " + " | ".join(row) + " |" in text.splitlines()
