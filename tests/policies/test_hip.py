"""Hip: the published searches step by step, causality, exact budgets, and recall against chance."""

import pytest
import torch

from accel.kernels.attention.reference import block_sparse_attention
from accel.kernels.layout.blocks import causal_blocks
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies import hip as hip_module
from accel.policies.hip import Hip
from accel.policies.parts.always import Always
from accel.policies.parts.ordering.orders import RowMajor, Tile
from accel.policies.search.candidates import sequence_candidates
from accel.policies.search.probing import best_logits, mean_queries, strided_queries
from accel.policies.search.stages import Stage, Stages, search_stages, select_representative
from accel.policies.search.tree import Tree, search_tree

SMOOTH = [0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1, 0, -1]
SPIKE = [9, 0, 1, 0, 5, 6, 5, 4, 0, 1, 2, 1, 3, 3, 4, 3]
UNEVEN = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


def tree(scores, budget):
    table = torch.tensor(scores, dtype=torch.float32)
    found, valid = search_tree(lambda place: table[place], torch.tensor([len(scores)]), len(scores), budget)
    assert valid.all()
    return found[0].tolist()


@pytest.mark.parametrize(
    ("scores", "budget", "expected"),
    [(SMOOTH, 4, [5, 6, 7, 8]), (SPIKE, 4, [4, 5, 6, 7]), (UNEVEN, 3, [4, 5, 7])],
    ids=["smooth", "spike-is-lost", "uneven"],
)
def test_the_published_tree_searches(scores, budget, expected):
    """T2."""
    assert tree(scores, budget) == expected


def test_a_tree_search_does_not_feel_a_constant():
    assert tree([score + 1000 for score in SPIKE], 4) == tree(SPIKE, 4)


@pytest.mark.parametrize("budget", [1, 3, 7, 16, 40])
def test_a_tree_search_of_ragged_rows_finds_its_budget_once(budget):
    counts = torch.tensor([0, 1, 2, 5, 16, 17, 39])
    scores = torch.randn(7, 40)
    found, valid = search_tree(lambda p: scores.gather(1, p), counts, 39, budget)
    for row, ok, count in zip(found, valid, counts.tolist(), strict=True):
        got = row[ok].tolist()
        assert len(got) == min(budget, count) and got == sorted(set(got))
        assert all(0 <= place < count for place in got)
        assert not ok[len(got) :].any()


def test_the_published_walk_to_a_representative():
    """T3."""
    keys = torch.tensor([0.1, 0.4, 0.2, 0.9, 0.3, 0.5, 0.8, 0.7])
    place, best = select_representative(
        lambda p: keys[p], torch.tensor([0]), torch.tensor([8]), torch.tensor([8]), 8
    )
    assert place.item() == 6 and best.item() == pytest.approx(0.8)


PLACES = torch.arange(64, dtype=torch.float64)
KEYS = torch.sin(0.37 * PLACES) + 0.3 * torch.cos(1.7 * PLACES)
FIRST_STAGE = [(4, 0.942525), (19, 0.652130), (21, 0.934541), (34, 0.080885), (37, 0.900735), (51, 0.083156)]


def scan_toy(queries):
    """T4: positions 60..63, sink 4, window 12."""
    q = torch.tensor(queries, dtype=torch.float64).reshape(1, -1, 4, 1)
    k = KEYS.reshape(1, 1, 64, 1)
    means = {stride: mean_queries(q, slice(0, 1), 4, stride) for stride in (1, 2)}
    found, valid = search_stages(
        lambda stride, places: best_logits(means[stride], k, places),
        [Stage(2, 8, 64), Stage(1, 2, 16)],
        budget=8,
        first=4,
        ends=torch.tensor([60]),
        most=52,
        limits=torch.tensor([56]),
    )
    assert valid.all()
    return found[0, :, 0].sort(-1).values.tolist()


def test_the_published_first_stage():
    queries = mean_queries(torch.tensor([1, 0.5, 0.25, 0.8]).reshape(1, 1, 4, 1), slice(0, 1), 4, 2)
    assert queries.flatten().tolist() == pytest.approx([0.75, 0.525])
    low = torch.arange(4, 52, 8).reshape(1, -1)
    place, best = select_representative(
        lambda p: best_logits(queries, KEYS.reshape(1, 1, 64, 1), p), low, low + 8, torch.tensor([[56]]), 8
    )
    assert place.flatten().tolist() == [at for at, _ in FIRST_STAGE]
    assert best.flatten().tolist() == pytest.approx([score for _, score in FIRST_STAGE], abs=2e-6)


def test_the_published_scan():
    assert scan_toy([1, 0.5, 0.25, 0.8]) == [[4, 6, 20, 22]]


def test_the_published_scan_of_two_heads():
    queries = [1, 0.5, 0.25, 0.8]
    assert scan_toy(queries + [-0.7 * x for x in queries]) == [[4, 6, 20, 22], [12, 14, 46, 48]]


def test_the_published_attention_of_the_scan():
    """Each row sees 24 keys: 12 of the window, 4 of the sink, 8 selected."""
    q = torch.tensor([1, 0.5, 0.25, 0.8], dtype=torch.float64).reshape(1, 1, 4, 1)
    k, v = KEYS.reshape(1, 1, 64, 1), torch.stack([PLACES, (-1.0) ** PLACES], -1)[None, None]
    index, row = torch.arange(64), torch.arange(60, 64)[:, None]
    starts = torch.tensor(scan_toy([1, 0.5, 0.25, 0.8])[0])
    selected = torch.isin(index, torch.cat([starts, starts + 1]))
    seen = ((index > row - 12) & (index <= row)) | ((index <= row - 12) & ((index < 4) | selected))
    assert (seen.sum(1) == 24).all()
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=1.0)[0, 0]
    expected = [(29.493308, 0.0048), (30.723955, -0.000135), (31.85969, -0.001702), (30.009736, 0.014485)]
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


def qkv(m, n, heads=4, kv_heads=2, dim=16, batch=2):
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, m), (kv_heads, n), (kv_heads, n))
    return [torch.randn(batch, h, t, dim, generator=generator, dtype=torch.float64) for h, t in shapes]


SEARCHES = {
    "tree": Tree(),
    "tree-finer": Tree(query_stride=1, key_stride=4),
    "stages": Stages(),
    "stages-three": Stages(query_stride=1, chunks=(8, 2)),
    "stages-flat": Stages(chunks=()),
}
SMALL = {"sink": 16, "window": 40, "block_size": (32, 16)}


@pytest.fixture(params=SEARCHES.values(), ids=SEARCHES.keys())
def search(request):
    return request.param


@pytest.mark.parametrize("lengths", [(300, 300), (70, 300), (1, 200), (33, 33)], ids=str)
def test_finding_everything_in_a_sequence_equals_dense(search, lengths):
    q, k, v = qkv(*lengths)
    layout = Hip(density=1, search=search, **SMALL).layout(q, k, None, Context())
    seen = torch.arange(lengths[1]) <= torch.arange(lengths[0])[:, None] + lengths[1] - lengths[0]
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense)


GRIDS = [TokenGrid(3, 9, 11), TokenGrid(3, 9, 11, 21), TokenGrid(3, 9, 11, 21, text_first=True)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("order", [None, RowMajor(), Tile((2, 4, 4))], ids=["hilbert", "row_major", "tile"])
def test_finding_everything_on_a_grid_equals_dense(search, grid, order):
    q, k, v = qkv(grid.tokens, grid.tokens)
    fields = {"density": 1, "search": search, "block_size": (64, 32)} | ({"order": order} if order else {})
    layout = Hip(**fields).layout(q, k, grid, Context())
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense)


def test_sink_window_and_budget_of_a_sequence(search):
    q, k, _ = qkv(500, 500)
    layout = Hip(density=0.2, search=search, **SMALL).layout(q, k, None, Context())
    mask = layout.to_mask(2)
    row, column = torch.arange(500)[:, None], torch.arange(500)
    always = (column <= row) & ((column < 16) | (column >= row - 40))
    assert mask[..., always].all()
    candidates = sequence_candidates(500, 500, 16, 40, (32, 16), torch.device("cpu"))
    budget = round(0.2 * 32)
    must = (candidates.must < 32).sum(1)
    assert (layout.kv_num_blocks == must + candidates.counts.clamp(max=budget)).all()


@pytest.mark.parametrize("lengths", [(500, 500), (70, 500), (1, 200), (33, 33), (40, 47)], ids=str)
@pytest.mark.parametrize(("sink", "window"), [(16, 40), (0, 0), (20, 7), (200, 10), (3, 900)])
def test_what_a_sequence_keeps_anyway_and_may_find_are_all_it_sees(lengths, sink, window):
    block_size = (32, 16)
    candidates = sequence_candidates(*lengths, sink, window, block_size, torch.device("cpu"))
    may = causal_blocks(block_size, *lengths)
    must = may & Always(sink=sink, recent=window).sequence_blocks(*lengths, block_size, torch.device("cpu"))
    blocks = may.shape[1]
    got = torch.zeros(len(may), blocks + 1, dtype=torch.bool).scatter_(1, candidates.must, True)[:, :-1]
    assert torch.equal(got, must)
    places = torch.arange(blocks)
    free = (places >= candidates.first) & (places < candidates.first + candidates.counts[:, None])
    assert torch.equal(free, may & ~must)


@pytest.mark.parametrize("length", [500, 1500])
def test_a_budget_of_keys_does_not_grow_with_the_length(search, length):
    q, k, _ = qkv(length, length, batch=1)
    layout = Hip(budget=64, search=search, **SMALL).layout(q, k, None, Context())
    found, always = 64 // 16, 1 + (40 + 32) // 16 + 2
    assert found < layout.kv_num_blocks.max() <= found + always
    assert layout.kv_indices.shape[3] <= found + always + 2 * 16 // 16


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_text_and_the_diagonal_are_kept_on_a_grid(search, grid):
    q, k, _ = qkv(grid.tokens, grid.tokens)
    layout = Hip(density=0.1, search=search, block_size=(64, 32)).layout(q, k, grid, Context())
    mask = layout.to_mask(2)
    text = torch.ones(grid.tokens, dtype=torch.bool)
    text[grid.video_start : grid.video_start + grid.video_tokens] = False
    assert mask.diagonal(dim1=-2, dim2=-1).all()
    assert mask[:, :, text].all() and mask[..., text].all()
    assert layout.density < 1


def test_a_search_beats_chance_where_neighbours_are_alike(search):
    """Keys that change slowly along the sequence, as the searches assume."""
    steps = torch.randn(1, 2, 1024, 16, generator=torch.Generator().manual_seed(0))
    k = steps.cumsum(2) / 8
    q = k.flip(2) + torch.randn(1, 2, 1024, 16, generator=torch.Generator().manual_seed(1))
    layout = Hip(density=0.2, search=search, block_size=(64, 16)).layout(
        q, k, TokenGrid(1, 1, 1024), Context()
    )
    attention = (q @ k.transpose(-1, -2) / 4).softmax(-1)
    recall = (attention * layout.to_mask()).sum(-1).mean()
    assert recall > 0.5, f"recall {recall:.2f} at density {layout.density:.2f}"


@pytest.mark.parametrize("grid", [None, TokenGrid(4, 5, 25)], ids=["sequence", "grid"])
def test_a_few_rows_at_a_time_find_the_same(search, grid, monkeypatch):
    q, k, _ = qkv(500, 500)
    policy = Hip(search=search, **SMALL)
    whole = policy.layout(q, k, grid, Context()).listed
    monkeypatch.setattr(hip_module, "CHUNK_ELEMENTS", 1)
    assert torch.equal(policy.layout(q, k, grid, Context()).listed, whole)


def test_samples_of_a_batch_are_searched_alone(search):
    q, k, _ = qkv(200, 200)
    policy = Hip(search=search, **SMALL)
    grid = TokenGrid(2, 10, 10)
    both, alone = (policy.layout(q[s], k[s], grid, Context()).listed for s in (slice(0, 2), slice(1, 2)))
    assert torch.equal(both[1:], alone)


def test_logits_are_compared_unsquashed():
    """Two keys far above any sigmoid's reach are still told apart."""
    q = torch.full((1, 1, 1, 4), 50.0)
    k = torch.zeros(1, 1, 8, 4)
    k[:, :, 2], k[:, :, 5] = 50, 51
    scores = best_logits(strided_queries(q, slice(0, 1), 1, 1), k, torch.arange(8).reshape(1, 1, 1, 8))
    assert scores.argmax() == 5 and scores[..., 2] < scores[..., 5]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Hip(density=0), "greater than 0"),
        (lambda: Hip(sink=-1), "greater than or equal to 0"),
        (lambda: Stages(chunks=(4, 3)), r"multiple of the next, got \(4, 3\)"),
        (lambda: Stages(chunks=(2, 4)), r"multiple of the next, got \(2, 4\)"),
        (lambda: Stages(query_stride=3), "got 3"),
    ],
    ids=["density", "sink", "chunks", "rising-chunks", "stride"],
)
def test_nonsense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
