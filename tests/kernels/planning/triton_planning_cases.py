"""Tests of the Triton kernels that plan; test_triton_planning.py runs them in the interpreter or on a GPU."""

import math
import os

import pytest
import torch

from accel.kernels.layout import (
    compact_lists,
    work_order,
)
from accel.kernels.layout import triton as triton_layout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.planning import heaviest as heaviest_blocks
from accel.kernels.planning import heaviest_pool as triton_heaviest_pool
from accel.kernels.planning import heaviest_triton as triton_heaviest_blocks
from accel.kernels.planning import mass as policies_block_mass
from accel.kernels.planning import mass_triton as triton_block_mass
from accel.kernels.planning import tree_triton
from accel.kernels.planning.outstanding import keep_outstanding
from accel.patches.grid import TokenGrid
from accel.policies.parts.ordering.orders import Hilbert, token_order
from accel.policies.parts.scores import Antidiagonal, Pooled, Strided, SubBlock, Wanted
from accel.policies.search.candidates import grid_candidates, sequence_candidates
from accel.policies.search.tree import Tree, search_tree

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


def scores(kind, shape):
    mass = torch.randn(shape).mul(3).softmax(-1)
    if kind == "ties":
        return (mass * 8).round() / 8
    if kind == "wild":
        wild = torch.randn(shape)
        wild[wild > 1.5], wild[wild < -1], wild[(wild > 0) & (wild < 0.2)] = math.inf, -math.inf, math.nan
        wild[(wild > 0.2) & (wild < 0.3)] = -0.0
        return wild
    return mass


@pytest.fixture
def small_spans(monkeypatch):
    monkeypatch.setattr(triton_heaviest_pool, "SPAN", 128)
    monkeypatch.setattr(triton_heaviest_pool, "STEP", 32)


@pytest.mark.parametrize("bounds", [(0.3, 0.0, None), (0.1, 0.0, None, 4), (0.8, 0.2, 0.6)], ids=str)
@pytest.mark.parametrize("kind", ["ties", "wild"])
@pytest.mark.parametrize("budget", ["row", "head", "layer"])
def test_the_same_blocks_are_kept_as_in_pytorch(small_spans, budget, kind, bounds):
    if kind == "wild" and bounds[2] is not None:
        kind = "random"
    mass = scores(kind, (1, 2, 3, 21))
    must = torch.rand(1, 1, 3, 21) < 0.15
    may = torch.rand(1, 2, 3, 21) < 0.7 if budget == "row" else None
    expected = heaviest_blocks.keep_heaviest(mass, must, may, budget, *bounds)
    on_device = None if may is None else may.to(DEVICE)
    kept = triton_heaviest_blocks.keep_heaviest(mass.to(DEVICE), must.to(DEVICE), on_device, budget, *bounds)
    assert torch.equal(kept.cpu(), expected)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("beta", [-1.0, 0.8])
def test_the_same_blocks_stand_out_as_in_pytorch(beta, masked):
    mass = scores("random", (1, 2, 3, 21))
    mass[0, 0, 1, 4:7], mass[0, 1, 2, :3], mass[0, 1, 0] = math.nan, 0.0, 0.125
    must = torch.rand(1, 1, 3, 21) < 0.15
    may = torch.rand(1, 2, 3, 21) < 0.7 if masked else None
    expected = keep_outstanding(mass, must, may, beta)
    on_device = None if may is None else may.to(DEVICE)
    kept = triton_heaviest_blocks.keep_outstanding(mass.to(DEVICE), must.to(DEVICE), on_device, beta)
    assert torch.equal(kept.cpu(), expected) and 0 < expected.sum() < expected.numel()


def test_rows_too_long_for_a_program_are_searched_in_spans(monkeypatch, small_spans):
    monkeypatch.setattr(triton_heaviest_blocks, "LONGEST_ROW", 64)
    mass, must = scores("ties", (1, 1, 3, 300)), torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    expected = heaviest_blocks.keep_heaviest(mass, must, None, "row", 0.3)
    kept = triton_heaviest_blocks.keep_heaviest(mass.to(DEVICE), must.to(DEVICE), None, "row", 0.3)
    assert torch.equal(kept.cpu(), expected)


@pytest.mark.parametrize("columns", [1, 16, 70], ids="N{}".format)
def test_lists_are_those_of_pytorch(columns):
    keep = torch.rand(2, 1, 3, columns) < 0.4
    for ours, theirs in zip(
        triton_layout.compact_lists(keep.to(DEVICE)), compact_lists.compact_lists(keep), strict=True
    ):
        assert torch.equal(ours.cpu(), theirs)


SCORES = {
    "strided": (Strided(8, 4), 64, torch.float16, False),
    "strided-causal": (Strided(8, 4), 96, torch.float32, True),
    "pooled": (Pooled(), 128, torch.float16, False),
    "pooled-untrusted": (Pooled(self_similarity=0.01), 64, torch.float32, False),
    "sub-block-causal": (SubBlock(16, 16), 64, torch.float16, True),
    "antidiagonal": (Antidiagonal(4), 32, torch.float32, False),
    "antidiagonal-wide": (Antidiagonal(8), 40, torch.float32, True),
    "wanted": (Wanted(4, 0.5), 64, torch.float32, True),
    "wanted-every-row": (Wanted(1, 1.0), 64, torch.float16, True),
}


@pytest.mark.parametrize("chunk", [1 << 28, 1], ids=["whole", "in-chunks"])
@pytest.mark.parametrize(("score", "dim", "dtype", "causal"), SCORES.values(), ids=SCORES.keys())
def test_block_mass_is_that_of_pytorch(score, dim, dtype, causal, chunk, monkeypatch):
    monkeypatch.setattr(triton_block_mass, "CHUNK_BYTES", chunk)
    q = torch.randn(2, 105, 4, dim, device=DEVICE).to(dtype).transpose(1, 2)
    k = (torch.randn(2, 2, 171, dim, device=DEVICE) + 2).to(dtype)
    may = (torch.rand(4, 6, device=DEVICE) < 0.8) if causal else None
    queries, keys = score.represent(q, k, (32, 32))
    scale = (queries.vectors.shape[3] // queries.folds) ** -0.5 / queries.folds
    mass = policies_block_mass._on_gpu(queries, keys, (32, 32), scale, causal, may, score.reduction)
    expected = score.mass(q.cpu(), k.cpu(), (32, 32), causal, None if may is None else may.cpu())
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 1e-3}
    torch.testing.assert_close(mass.cpu(), expected, **close)


@pytest.mark.parametrize("shape", [(65,), (1, 4, 65), (2, 4, 65), (2, 2, 65)], ids=str)
def test_rows_move_as_an_order_says(shape):
    order = TokenOrder(torch.rand(shape).argsort(-1))
    tokens = torch.randn(2, 65, 2, 40).half().transpose(1, 2)
    moved = triton_layout.move_rows(tokens.to(DEVICE), order.indices.to(DEVICE))
    assert torch.equal(moved.cpu(), order.permute(tokens))
    back = triton_layout.move_rows(moved, order.indices.to(DEVICE), back=True)
    assert torch.equal(back.cpu(), order.restore(order.permute(tokens)))


def test_the_longest_lists_go_first():
    counts = torch.randint(0, 9, (2, 3, 150), dtype=torch.int32)
    order = triton_layout.work_order(counts.to(DEVICE)).cpu()
    assert torch.equal(order, work_order.work_order(counts))
    assert (counts.gather(2, order.long()).diff() <= 0).all()


TREES = {  # grid or tokens of a sequence, search, blocks to find, head dim, type, bytes of scores at once
    "grid": (TokenGrid(2, 4, 10, 5), Tree(8, 4), 2, 16, torch.float32, 1 << 28),
    "grid-in-chunks": (TokenGrid(1, 6, 9), Tree(5, 3), 1, 24, torch.float16, 1),
    "sequence": (133, Tree(8, 5), 2, 16, torch.float16, 1 << 28),
    "sequence-in-chunks": (70, Tree(2, 16), 1, 32, torch.float32, 1),
    "all": (70, Tree(8, 8), 9, 16, torch.float32, 1 << 28),
}


@pytest.mark.parametrize(("tokens", "search", "budget", "dim", "dtype", "chunk"), TREES.values(), ids=TREES)
def test_a_tree_finds_the_blocks_of_pytorch(tokens, search, budget, dim, dtype, chunk, monkeypatch):
    """Products are small integers, exact in any order of adding."""
    monkeypatch.setattr(tree_triton, "CHUNK_BYTES", chunk)
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **kw: new_empty(*a, **kw).fill_(99))
    block, device = (64, 16), torch.device(DEVICE)
    if isinstance(tokens, TokenGrid):
        length, order = tokens.tokens, token_order(Hilbert(), tokens, device)
        make, about = grid_candidates, (tokens, Hilbert(), block)
    else:
        length, order = tokens, None
        make, about = sequence_candidates, (tokens, tokens, 16, 0, block)
    q, k = (torch.randint(-2, 3, (2, length, heads, dim)).to(dtype).transpose(1, 2) for heads in (2, 1))
    candidates = make(*about, torch.device("cpu"))
    on_cpu = [x if order is None else x[:, :, order.indices.cpu()] for x in (q, k)]
    rows = slice(0, len(candidates.counts))
    place, valid = search.find(*on_cpu, rows, candidates, block, budget)
    expected = torch.where(valid, candidates.blocks(rows, place), -(-length // 16))
    found = search.find_on_gpu(q.to(device), k.to(device), order, make(*about, device), block, budget)
    assert torch.equal(found.cpu(), expected.expand_as(found))


def test_of_equal_nodes_of_a_tree_those_of_better_parents_are_kept():
    scores = torch.randint(0, 3, (3, 40), generator=torch.Generator().manual_seed(4)).float()
    queries, keys = torch.eye(3, 16)[None, None], torch.zeros(1, 1, 40, 16)
    keys[0, 0, :, :3] = scores.mT
    counts = torch.tensor([40, 23, 4])
    place, valid = search_tree(lambda p: scores.gather(1, p), counts, 40, 5)
    found = tree_triton.find_in_tree(
        queries.to(DEVICE), keys.to(DEVICE), (1, 1), None, 0, counts.to(DEVICE), 5, 3
    )
    assert torch.equal(found[0, 0].cpu(), torch.where(valid, place, 40))
