"""Selectors: smallest sets, exact budgets, ties, bounds."""

from itertools import pairwise

import pytest
import torch

from accel.policies.parts.selectors import Deviation, TopK, TopP

NONE = torch.zeros(1, 1, 1, 1, dtype=torch.bool)


def random_mass(batch=2, heads=3, rows=5, columns=12):
    return (
        torch.randn(batch, heads, rows, columns, generator=torch.Generator().manual_seed(1))
        .mul(2)
        .softmax(-1)
    )


POOLS = {"row": 12, "head": 60, "layer": 180}


@pytest.mark.parametrize("budget", POOLS)
@pytest.mark.parametrize("density", [0.2, 0.34, 0.9, 1.0])
def test_top_k_meets_its_budget_exactly(budget, density):
    keep = TopK(density, budget).keep(random_mass(), NONE)
    per_pool = keep.reshape(-1, POOLS[budget]).sum(-1)
    assert (per_pool == round(density * POOLS[budget])).all()
    assert keep.any(-1).all()


@pytest.mark.parametrize("budget", POOLS)
def test_top_k_keeps_the_heaviest(budget):
    mass = random_mass()
    keep = TopK(0.5, budget).keep(mass, NONE)
    best = torch.zeros_like(keep).scatter(-1, mass.argmax(-1, keepdim=True), True)
    for kept, value, is_best in zip(*(x.reshape(-1, POOLS[budget]) for x in (keep, mass, best)), strict=True):
        assert value[kept & ~is_best].min() >= value[~kept].max()


def test_every_row_gets_its_share_before_the_rest_is_pooled():
    mass = random_mass()
    mass[:, 0] *= 100
    keep = TopK(0.5, "layer", row_density=0.25).keep(mass, NONE)
    rows = TopK(0.25).keep(mass, NONE)
    assert (keep | ~rows).all()
    assert (keep.flatten(1).sum(1) == 90).all()
    assert keep.sum(-1).min() == 3 and TopK(0.5, "layer").keep(mass, NONE).sum(-1).min() == 1


@pytest.mark.parametrize("budget", POOLS)
def test_a_short_sequence_keeps_the_least_number_of_blocks(budget):
    mass = random_mass()
    columns = mass.shape[-1]
    keep = TopK(0.1, budget, least_blocks=4).keep(mass, NONE)
    assert torch.equal(keep, TopK(4 / columns, budget).keep(mass, NONE))
    assert torch.equal(TopK(0.9, budget, least_blocks=4).keep(mass, NONE), TopK(0.9, budget).keep(mass, NONE))
    assert TopK(0.1, budget, least_blocks=columns + 1).keep(mass, NONE).all()


@pytest.mark.parametrize("budget", POOLS)
def test_the_least_number_of_blocks_is_a_mean_over_what_shares_a_budget(budget):
    mass = random_mass()
    pooled = {"row": 1, "head": mass.shape[2], "layer": mass.shape[1] * mass.shape[2]}[budget]
    keep = TopK(0.1, budget, least_blocks=3.3).keep(mass, NONE)
    counts = keep.sum(-1).flatten().unflatten(0, (-1, pooled)).sum(-1)
    assert (counts == round(3.3 * pooled)).all()


def test_ties_go_to_the_lowest_column():
    keep = TopK(0.25).keep(torch.ones(1, 1, 2, 12), NONE)
    assert keep.tolist() == [[[[True] * 3 + [False] * 9] * 2]]


@pytest.mark.parametrize("budget", POOLS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_top_p_is_the_smallest_set_that_reaches_its_share(budget, share):
    mass = random_mass()
    keep = TopP(share, budget=budget).keep(mass, NONE)
    best = torch.zeros_like(keep).scatter(-1, mass.argmax(-1, keepdim=True), True)
    for kept, value, is_best in zip(*(x.reshape(-1, POOLS[budget]) for x in (keep, mass, best)), strict=True):
        assert value[kept].sum() >= share * value.sum() - 1e-6
        removable = kept & ~is_best
        if removable.any():
            assert value[kept].sum() - value[removable].min() < share * value.sum() + 1e-6


def test_top_p_grows_with_its_share_and_ends_with_everything():
    mass = random_mass()
    mass[..., 0] = 0
    mass[:, :, 2] = torch.tensor([1.0] + [0.0] * 11)
    kept = [TopP(share).keep(mass, NONE) for share in (0.1, 0.3, 0.5, 0.9, 0.99999, 1.0)]
    for smaller, larger in pairwise(kept):
        assert (larger | ~smaller).all()
    assert kept[-1].all() and not kept[-2].all()


def test_top_p_is_bounded():
    mass = random_mass()
    keep = TopP(0.9, min_density=0.25, max_density=0.5).keep(mass, NONE)
    assert keep.sum(-1).max() <= 6
    assert TopP(0.01, min_density=0.25).keep(mass, NONE).sum(-1).unique().tolist() == [3]


@pytest.mark.parametrize(
    "selector", [TopK(0.3), TopK(0.3, "layer"), TopP(0.5), TopP(0.5, budget="head")], ids=str
)
def test_what_must_be_kept_is_kept_and_counts(selector):
    mass = random_mass()
    must = torch.zeros(1, 1, 5, 12, dtype=torch.bool)
    must[..., 7] = True
    keep = selector.keep(mass, must)
    assert keep[..., 7].all()
    if isinstance(selector, TopK):
        assert keep.sum() == TopK(0.3, selector.budget).keep(mass, NONE).sum()
    all_must = selector.keep(mass, torch.ones_like(must))
    assert all_must.all()


@pytest.mark.parametrize(
    "selector",
    [TopK(0.5), TopK(1.0), TopK(0.5, "head"), TopP(0.9), TopP(1.0), TopP(0.9, min_density=0.5)],
    ids=str,
)
def test_what_may_not_be_kept_never_is(selector):
    may = torch.ones(5, 12, dtype=torch.bool).tril(3)[None, None]
    keep = selector.keep(random_mass(), torch.ones(1, 1, 5, 12, dtype=torch.bool).triu(2), may)
    assert not (keep & ~may).any()
    assert keep.any(-1).all()
    if getattr(selector, "density", 0) == 1 or getattr(selector, "mass", 0) == 1:
        assert torch.equal(keep, may.expand_as(keep))


def test_a_density_is_of_what_may_be_kept():
    may = torch.ones(8, 8, dtype=torch.bool).tril()[None, None]
    keep = TopK(0.5).keep(random_mass(1, 1, 8, 8), NONE, may)
    assert keep.sum(-1).flatten().tolist() == [1, 1, 2, 2, 2, 3, 4, 4]


def test_a_row_that_may_see_nothing_keeps_nothing():
    may = torch.ones(5, 12, dtype=torch.bool)
    may[0] = False
    assert not TopP(0.9).keep(random_mass(), NONE, may[None, None])[:, :, 0].any()


def test_samples_of_a_batch_do_not_share_a_budget():
    mass = random_mass()
    alone = TopK(0.3, "layer").keep(mass[:1], NONE)
    mass[1] *= 100
    assert torch.equal(TopK(0.3, "layer").keep(mass, NONE)[:1], alone)


@pytest.mark.parametrize(
    ("selector", "fields", "message"),
    [
        (TopK, {"density": 0}, "greater than 0"),
        (TopK, {"density": 1.2}, "got 1.2"),
        (TopK, {"density": 0.5, "budget": "frame"}, "frame"),
        (TopK, {"density": 0.2, "row_density": 0.3}, "0.3 and 0.2"),
        (TopP, {"mass": 0.5, "min_density": 0.6, "max_density": 0.3}, "0.6 and 0.3"),
    ],
    ids=["zero", "above-one", "budget", "row-density", "bounds"],
)
def test_nonsense_is_refused(selector, fields, message):
    with pytest.raises(ValueError, match=message):
        selector(**fields)


def test_top_p_gives_every_row_its_share_before_the_rest_is_pooled():
    mass = random_mass()
    mass[:, 0] *= 100
    plain = TopP(0.3, budget="layer").keep(mass, NONE)
    keep = TopP(0.3, budget="layer", row_density=0.25).keep(mass, NONE)
    assert (keep | ~TopK(0.25).keep(mass, NONE)).all()
    assert plain.sum(-1).min() == 1 and keep.sum(-1).min() == 3


def test_the_rows_share_counts_towards_the_mass():
    mass = random_mass()
    keep = TopP(0.01, budget="layer", row_density=0.25).keep(mass, NONE)
    assert torch.equal(keep, TopK(0.25).keep(mass, NONE))


def test_a_table_of_layers_gives_each_its_density():
    table = TopK(0.5, "layer", layer_density=(0.2, 1.0, 0.5))
    mass = random_mass()
    for layer, density in enumerate((0.2, 1.0, 0.5)):
        expected = TopK(density, "layer").keep(mass, NONE)
        assert torch.equal(table.at_layer(layer, 3).keep(mass, NONE), expected)
    assert TopK(0.5).at_layer(7, 9) == TopK(0.5)
    with pytest.raises(ValueError, match="3 entries, this model has 4 layers"):
        table.at_layer(0, 4)


def test_a_rows_share_above_the_budget_is_refused():
    with pytest.raises(ValueError, match="row_density"):
        TopK(0.5, row_density=0.3, layer_density=(0.2, 0.9))
    with pytest.raises(ValueError, match="row_density"):
        TopP(0.9, max_density=0.3, row_density=0.4)


def test_what_stands_out_by_its_deviation_is_kept():
    # Logarithms 0, 0, 0 and 4: mean 1, deviation sqrt(3); 4 is sqrt(3) deviations above it, the others below.
    mass = torch.tensor([0.0, 0.0, 0.0, 4.0]).exp()[None, None, None]
    none = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    assert Deviation(1.7).keep(mass, none).tolist() == [[[[False, False, False, True]]]]
    assert Deviation(-0.5).keep(mass, none).sum() == 1 and Deviation(-0.6).keep(mass, none).sum() == 4
    # Nothing stands out further than that, but no row is left without its heaviest block.
    assert Deviation(1.8).keep(mass, none).sum() == 1
    first = torch.tensor([True, False, False, False])
    assert Deviation(1.7).keep(mass, first[None, None, None])[0, 0, 0].tolist() == [True, False, False, True]
    # Of the first three alone none stands out.
    may = torch.tensor([True, True, True, False])[None, None, None]
    assert Deviation(1.0).keep(mass, none, may).sum() == 1
    assert not Deviation(1.0).keep(mass, none, may)[..., 3].any()


def test_scores_do_not_matter_by_their_size_but_by_their_spread():
    mass = torch.rand(1, 2, 3, 50, generator=torch.Generator().manual_seed(0)) + 0.1
    none = torch.zeros(1, 1, 1, 50, dtype=torch.bool)
    assert torch.equal(Deviation(1.0).keep(mass, none), Deviation(1.0).keep(mass * 7, none))
