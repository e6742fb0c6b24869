"""keep_heaviest against a plain sort, on scores as bad as they come."""

import math

import pytest
import torch

from accel.kernels.layout.compact_lists import compact_lists
from accel.kernels.planning import heaviest as heaviest_blocks
from accel.kernels.planning.heaviest import keep_heaviest

POOLED = {"row": 3, "head": 2, "layer": 1}
BOUNDS = [(0.3, 0.0, None), (1.0, 0.0, None), (0.0, 0.0, None), (0.8, 0.2, 0.6), (0.5, 0.4, 0.999)]


def scores(kind, shape=(2, 3, 4, 21)):
    generator = torch.Generator().manual_seed(5)
    mass = torch.randn(shape, generator=generator).mul(3).softmax(-1)
    if kind == "ties":
        return (mass * 8).round() / 8
    if kind == "equal":
        return torch.zeros(shape)
    if kind == "wild":
        wild = torch.randn(shape, generator=generator)
        wild[wild > 1.5], wild[wild < -1], wild[(wild > 0) & (wild < 0.2)] = math.inf, -math.inf, math.nan
        wild[(wild > 0.2) & (wild < 0.3)] = -0.0
        wild[:, 0, 0] = -math.inf
        return wild
    return mass


def sorted_out(mass, must, may, budget, density, min_density, share):
    """The same by sorting Python tuples, budget by budget."""
    mass = torch.where(mass.isnan(), -math.inf, mass)
    may = torch.ones_like(mass, dtype=torch.bool) if may is None else may.expand_as(mass)
    must = must.expand_as(mass).clone()
    for row, allowed, wanted in zip(*(x.reshape(-1, mass.shape[3]) for x in (mass, may, must)), strict=True):
        columns = allowed.nonzero().flatten().tolist()
        if columns:
            wanted[max(columns, key=lambda column: (row[column].item(), -column))] = True
    keep = torch.zeros_like(must)
    flat = (x.flatten(POOLED[budget]).flatten(0, -2) for x in (mass, must & may, may))
    for kept, values, wanted, allowed in zip(
        keep.flatten(POOLED[budget]).flatten(0, -2), *(x.unbind() for x in flat), strict=True
    ):
        places = allowed.nonzero().flatten().tolist()
        ranked = sorted(places, key=lambda i: (-int(wanted[i]), -values[i].item() + 0.0, i))
        low, high = (round(float(torch.tensor(x) * len(places))) for x in (min_density, density))
        count = high
        if share is not None:
            reached = torch.tensor([values[i].item() for i in ranked], dtype=torch.float64).cumsum(0)
            count = min(max(int((reached < share * reached[-1]).sum()) + 1, low), high) if places else 0
        kept[ranked[: max(count, int(wanted.sum()))]] = True
    return keep


@pytest.fixture(params=["chosen", "bisected"])
def search(request, monkeypatch):
    if request.param == "bisected":
        monkeypatch.setattr(heaviest_blocks.torch.compiler, "is_compiling", lambda: True)


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("limited", [False, True], ids=["all-may", "some-may"])
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "wild"])
@pytest.mark.parametrize("budget", POOLED)
def test_the_same_blocks_as_a_sort(search, budget, kind, limited, bounds):
    if kind == "wild" and bounds[2] is not None:
        pytest.skip("a share of a mass needs a mass")
    mass = scores(kind)
    must = torch.rand(1, 1, 4, 21) < 0.15
    may = torch.rand(1, 1, 4, 21) < 0.7 if limited else None
    kept = keep_heaviest(mass, must, may, budget, *bounds)
    assert torch.equal(kept, sorted_out(mass, must, may, budget, *bounds))


def test_a_row_that_may_keep_nothing_keeps_nothing():
    may = torch.ones(1, 1, 4, 21, dtype=torch.bool)
    may[:, :, 1] = False
    kept = keep_heaviest(scores("wild"), torch.ones_like(may), may, "row", 0.3)
    assert not kept[:, :, 1].any() and kept[:, :, 0].all()


@pytest.mark.parametrize("columns", [1, 7, 40], ids="N{}".format)
def test_lists_ascend_and_hold_what_is_kept(columns):
    keep = torch.rand(2, 1, 5, columns) < 0.4
    indices, counts = compact_lists(keep)
    assert indices.dtype == counts.dtype == torch.int32 and indices.shape == keep.shape
    for row, listed, count in zip(
        keep.view(-1, columns), indices.view(-1, columns), counts.flatten(), strict=True
    ):
        assert listed[:count].tolist() == row.nonzero().flatten().tolist()
        assert not listed[count:].any()


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_choosing_and_listing_are_one_graph(bounds):
    def plan(mass, must):
        return compact_lists(keep_heaviest(mass, must, None, "layer", *bounds))

    mass, must = scores("ties"), torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    compiled = torch.compile(plan, fullgraph=True, backend="eager")
    for ours, theirs in zip(compiled(mass, must), plan(mass, must), strict=True):
        assert torch.equal(ours, theirs)


def test_a_default_type_does_not_round_budgets():
    mass = torch.rand(1, 4, 150, 150, dtype=torch.float32)
    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    torch.set_default_dtype(torch.float16)
    try:
        keep = keep_heaviest(mass, nothing, None, "layer", 0.8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert int(keep.sum()) == round(0.8 * mass.numel())


@pytest.mark.parametrize("density", [1.0, 0.5, 0.1])
def test_budgets_are_whole_blocks_above_what_float32_can_count(density):
    from accel.kernels.planning.budgets import bounds

    blocks = 5001 * 5003
    mass = torch.zeros(1, 1, 1, 1).expand(1, 1, 5001, 5003)
    fewest, most = bounds(mass, None, "layer", density, density)
    assert fewest.item() == most.item() == round(density * blocks) > 2**21
