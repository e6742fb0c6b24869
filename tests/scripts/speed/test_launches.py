"""Launches are counted on tensors that only say they are on a GPU; the page has the counts of the script."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from accel.kernels.layout.compact_lists import compact_lists
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.search.tree import Tree
from accel.recipe.files import load_recipe
from accel.sites.grid import residual
from accel.sites.grid.call import Call
from scripts.page import markdown
from scripts.speed.launches import (
    DENSE_TFLOPS,
    DIM,
    GRID,
    HEAD,
    HEADS,
    TERABYTES,
    counted,
    of_call,
    rows,
)

PAGE = Path(__file__).parents[3] / "docs" / "kernels.md"
SMALL = TokenGrid(3, 20, 30)


def test_a_threshold_by_mean_and_deviation_is_one_launch_on_the_masses():
    choosing, attending = of_call(load_recipe("sol-attn").rules[0].policy, SMALL, 2, 64)
    assert choosing.kernels == Counter(
        ["block_lse_kernel", "row_mass_kernel", "outstanding_kernel", "compact_kernel"]
    )
    assert not {"sqrt", "pow", "where", "gt"} & set(choosing.operators)
    assert {"block_sparse_kernel", "tail_means_kernel", "tail_kernel"} <= set(attending.kernels)


def test_a_tree_search_is_two_launches_where_the_kernels_take_it():
    policy = load_recipe("hip").rules[0].policy
    choosing, _ = of_call(policy, SMALL, 2, 64)
    assert choosing.kernels == Counter(["block_scores_kernel", "tree_kernel", "compact_kernel"])
    assert choosing.operators.total() < 10
    too_wide = replace(policy, search=Tree(query_stride=1), block_size=(128, 64))
    for refused, dim in ((policy, 264), (too_wide, 256)):
        choosing, _ = of_call(refused, SMALL, 2, dim)
        assert "tree_kernel" not in choosing.kernels and choosing.operators["gather"]


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


def test_a_residual_by_rank_moves_little_beside_dense_attention(monkeypatch):
    sizes = (1, HEADS, GRID.tokens, DIM)
    q, k, v = torch.empty(3, *sizes, dtype=torch.bfloat16, device="meta")
    layout = load_recipe("auto").rules[0].policy.layout(q, k, GRID, Context(grid=GRID))
    monkeypatch.setattr(residual, "attention_with_lse", lambda q, *rest: (torch.empty_like(q), q[..., 0]))
    kept, site = {}, residual.Residual(load_recipe("auto").compensate)

    def share(step: int, run) -> float:
        """Bytes, as a share of the time of dense attention, at a step of 50."""
        context = Context(grid=GRID, step=step, n_steps=50, progress=step / 50, turn=step)
        with counted() as counts:
            run(Call(context, "key", kept))
        dense = 4 * GRID.tokens**2 * HEADS * DIM / DENSE_TFLOPS / 1e12
        return counts.moved.total() / TERABYTES / 1e12 / dense

    assert share(9, lambda call: site.capture((q, k, v), layout, call)) < 0.035
    assert share(12, lambda call: site.apply(torch.empty_like(q), v, call)) < 0.0025


def test_the_page_has_these_counts():
    text = PAGE.read_text(encoding="utf-8")
    assert markdown(HEAD, []) in text
    (row,) = rows(["sol-attn"])
    assert "| " + " | ".join(row) + " |" in text.splitlines()
