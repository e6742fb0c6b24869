"""One video over several processes: what each of them gets is what one process gets."""

from types import SimpleNamespace

import numpy as np
import torch
from pytest import fixture, mark, raises

from accel.patches.diffusers.context_parallel import arrival_of_text_apart
from accel.patches.diffusers.ulysses import require_shares
from accel.patches.grid import TokenGrid
from accel.patches.head_share import HeadShare
from accel.patches.site import Site
from accel.recipe.recipe import DENSE
from accel.sites.site_attention import SiteAttention
from processes import in_processes
from tiny_parallel import PER_HEAD, PER_LAYER, RADIAL, everything, pipeline, run

VIDEO, RAGGED, IMAGE = (3, 4, 6), (3, 5, 7), (1, 12, 13)
ULYSSES = {"ulysses_degree": 2}
ANYTHING = {"ulysses_degree": 2, "ulysses_anything": True}
FOUR = {"ulysses_degree": 4, "ulysses_anything": True}
RING, HYBRID = {"ring_degree": 2, "ring_anything": True}, {"ring_degree": 2, "ulysses_degree": 2}
BY_HEAD = {
    "method": "per_head",
    "candidates": [{**RADIAL, "decay": decay} for decay in (0.2, 0.4, 0.6)],
    "choose": {"kind": "table", "parts": [{"heads": [[0, 1, 2]] * 3}]},
}

SHARED_SEARCH = {
    "method": "hip",
    "density": 0.3,
    "search": {"kind": "stages", "query_stride": 1, "chunks": [2]},
    "block_size": [16, 16],
}
SORTED = {
    "method": "permuted",
    "segment": 32,
    "select": {"kind": "top_p", "mass": 0.5, "budget": "layer"},
    "block_size": [16, 16],
}

TWO_JOBS = {
    "wan, everything kept": ("wan", 4, VIDEO, None, ULYSSES, "accelerate first"),
    "wan, a budget a row": ("wan", 4, VIDEO, PER_HEAD, ULYSSES, "parallel first"),
    "wan, a budget a layer": ("wan", 4, VIDEO, PER_LAYER, ULYSSES, "accelerate first"),
    "wan, ragged, odd heads": ("wan", 3, RAGGED, PER_LAYER, ANYTHING, "parallel first"),
    "wan, a table by head": ("wan", 3, RAGGED, BY_HEAD, ANYTHING, "accelerate first"),
    "wan, dense, parallel": ("wan", 3, RAGGED, None, ANYTHING, "dense"),
    "wan, one choice for all heads": ("wan", 3, RAGGED, SHARED_SEARCH, ANYTHING, "accelerate first"),
    "wan, sorted keys": ("wan", 3, RAGGED, SORTED, ANYTHING, "parallel first"),
    "ltx": ("ltx", 3, RAGGED, PER_LAYER, ANYTHING, "accelerate first"),
    "helios": ("helios", 3, RAGGED, PER_LAYER, ANYTHING, "accelerate first"),
    "helios, history": ("helios-history", 3, RAGGED, PER_LAYER, ANYTHING, "parallel first"),
    "qwen, everything kept": ("qwen-image", 3, IMAGE, None, ANYTHING, "accelerate first"),
    "qwen, a budget a layer": ("qwen-image", 3, IMAGE, PER_LAYER, ANYTHING, "parallel first"),
    "flux": ("flux", 4, IMAGE, PER_LAYER, ANYTHING, "accelerate first"),
    "flux2": ("flux2", 3, IMAGE, PER_HEAD, ANYTHING, "parallel first"),
}
FOUR_JOBS = {
    "wan": ("wan", 4, VIDEO, PER_LAYER, {"ulysses_degree": 4}, "parallel first"),
    "wan, ragged, odd heads": ("wan", 7, RAGGED, PER_LAYER, FOUR, "accelerate first"),
    "qwen, ragged, odd heads": ("qwen-image", 7, IMAGE, PER_LAYER, FOUR, "accelerate first"),
}
RING_JOBS = {
    "a ring": ("wan", 3, RAGGED, PER_LAYER, RING, "accelerate first"),
    "a ring, set up first": ("wan", 3, RAGGED, PER_LAYER, RING, "parallel first"),
}
HYBRID_JOBS = {"rings and heads": ("wan", 4, VIDEO, PER_LAYER, HYBRID, "accelerate first")}


@fixture(scope="module")
def two():
    """What two processes found, by rank."""
    more = ("gradients", "compiled", "refusals", "pipeline", "shown")
    return in_processes(2, everything, list(TWO_JOBS.values()), list(RING_JOBS.values()), *more)


@fixture(scope="module")
def four():
    return in_processes(4, everything, list(FOUR_JOBS.values()), list(HYBRID_JOBS.values()))


def by_rank(ranks, jobs, name):
    return [rank["jobs"][list(jobs).index(name)] for rank in ranks]


def same_as_one_process(job, ranks):
    name, heads, size, policy, _, order = job
    alone = run(name, heads, size, policy, None, order)
    dense = run(name, heads, size, policy, None, "dense")["output"]
    for found in ranks:
        assert "error" not in found, found["error"]
        np.testing.assert_allclose(found["output"], alone["output"], atol=3e-6, rtol=3e-6)
        if order != "dense":
            assert not found["reasons"]
            np.testing.assert_allclose(found["restored"], dense, atol=3e-6, rtol=3e-6)
    if policy is not None:
        assert abs(alone["output"] - dense).max() > 1e-2
        assert all(found["density"] < 1 for found in ranks)
    return [found.get("density") for found in ranks], alone.get("density")


@mark.parametrize("name", TWO_JOBS)
def test_two_processes_are_one(two, name):
    same_as_one_process(TWO_JOBS[name], by_rank(two, TWO_JOBS, name))


@mark.parametrize("name", FOUR_JOBS)
def test_four_processes_are_one(four, name):
    same_as_one_process(FOUR_JOBS[name], by_rank(four, FOUR_JOBS, name))


@mark.parametrize("name", ["wan, everything kept", "qwen, everything kept"])
def test_keeping_everything_is_dense(two, name):
    dense = run(*TWO_JOBS[name][:3], None, None, "dense")["output"]
    for found in by_rank(two, TWO_JOBS, name):
        assert found["density"] == 1
        np.testing.assert_allclose(found["output"], dense, atol=3e-6, rtol=3e-6)


def test_a_layers_budget_is_spent_over_the_heads_of_all_processes(two):
    name = "wan, a budget a layer"
    shares, whole = same_as_one_process(TWO_JOBS[name], by_rank(two, TWO_JOBS, name))
    assert shares[0] != shares[1]
    assert abs(sum(shares) / 2 - whole) < 1e-6


def test_a_whole_pipeline_makes_the_same_video(two):
    alone = pipeline(parallel=False)
    for found in (rank["pipeline"] for rank in two):
        # Passes of guidance share the first layer where one process has all tokens.
        assert found["reasons"] == {**alone["reasons"], "dense layer": 2 * alone["reasons"]["dense layer"]}
        assert found["density"] < 0.5
        np.testing.assert_allclose(found["output"], alone["output"], atol=1e-5, rtol=1e-5)


def test_a_ring_runs_dense_and_says_why(two, four):
    dense = run("wan", 3, RAGGED, None, None, "dense")["output"]
    hybrid_dense = run("wan", 4, VIDEO, None, None, "dense")["output"]
    for ranks, expected in ((two, dense), (four, hybrid_dense)):
        for found in (found for rank in ranks for found in rank["ring"]):
            assert found["reasons"] == {"ring attention shows each process only part of the tokens": 3}
            np.testing.assert_allclose(found["output"], expected, atol=3e-6, rtol=3e-6)


def test_gradients_are_the_dense_ones(two):
    for found in (rank["gradients"] for rank in two):
        assert found["reasons"] == {"gradients are recorded": 3}
        np.testing.assert_array_equal(found["accelerated"], found["dense"])


def test_compiled_blocks_take_no_graph_more_than_stock_ones(two):
    alone = run("wan", 4, VIDEO, PER_LAYER, None)["output"]
    for found in (rank["compiled"] for rank in two):
        assert found["accelerated"]["graphs"] == found["stock"]["graphs"]
        np.testing.assert_allclose(found["accelerated"]["output"], alone, atol=3e-6, rtol=3e-6)


def test_what_cannot_be_shared_is_refused_in_words(two):
    for heads, ring in (rank["refusals"] for rank in two):
        assert "3 heads cannot be shared equally by 2 processes" in heads and "ulysses_anything" in heads
        assert "return_lse" in ring


def test_heads_that_leave_a_process_idle_are_refused_in_words():
    parallel = SimpleNamespace(ulysses_degree=4, ulysses_anything=True)
    require_shares(7, parallel)
    for heads in (5, 6):
        with raises(ValueError, match=f"{heads} heads leave one of 4 processes without any"):
            require_shares(heads, parallel)


def test_text_and_video_that_were_split_apart_are_found_again():
    grid = TokenGrid(1, 2, 3, text_tokens=5, text_first=True)
    # Two processes bring text 0 1 2 and video 5 6 7, then text 3 4 and video 8 9 10.
    gathered = torch.tensor([0, 1, 2, 5, 6, 7, 3, 4, 8, 9, 10])
    arrival = arrival_of_text_apart(grid, 2, torch.device("cpu"))
    assert torch.equal(gathered[arrival], torch.arange(11))
    grid = TokenGrid(1, 2, 3, text_tokens=2)
    gathered = torch.tensor([0, 1, 2, 6, 3, 4, 5, 7])
    arrival = arrival_of_text_apart(grid, 2, torch.device("cpu"))
    assert torch.equal(gathered[arrival], torch.arange(8))


def test_shares_of_heads():
    shares = [HeadShare(7, 4, rank).own for rank in range(4)]
    assert [list(range(7))[share] for share in shares] == [[0, 1], [2, 3], [4, 5], [6]]
    with raises(ValueError, match="5 heads leave one of 4 processes without any"):
        HeadShare(5, 4, 0)
    with raises(ValueError, match="rank must be one of 2, got 2"):
        HeadShare(4, 2, 2)


def test_an_error_is_raised_where_others_would_wait(monkeypatch):
    def plan():
        raise RuntimeError("no memory for a plan")

    monkeypatch.delenv("ACCEL_STRICT", raising=False)
    with raises(RuntimeError, match="no memory for a plan"):
        site = Site("blocks.0.attn1", "", None, 0, 1, 2)
        q = torch.zeros(1, 1, 1, 1)
        SiteAttention(site, DENSE.rules[0], DENSE).sparse(q, plan, None, None, 0, alone=False)


def test_what_the_page_shows_runs(two):
    for process in two:
        assert process["shown"]["frames"] == (9, 64, 64, 3) and process["shown"]["density"] is not None
