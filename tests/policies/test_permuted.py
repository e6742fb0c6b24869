"""Permuted: the published vectors, causality on original positions, offsets, and the gate on grids."""

from itertools import pairwise

import pytest
import torch

from accel.kernels.attention.reference import block_sparse_attention
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.ordering.key_importance import blocks_for_mass, key_order
from accel.policies.parts.scores import Antidiagonal, Pooled
from accel.policies.parts.selectors import TopK, TopP
from accel.policies.permuted import Permuted, blocks_with_a_visible_key, plan_grid, plan_sequence
from causal_qkv import dense_causal, qkv


def toy(n):
    i, j = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(2, dtype=torch.float64)
    q, k = 2 * torch.cos(0.5 * i + 1.1 * j), 2 * torch.sin(0.9 * i - 0.7 * j)
    v = torch.cat([i, (-1.0) ** i], dim=1)
    return [x[None, None] for x in (q, k, v)]


def attend(q, k, v, keep, order, causal):
    """Token by token, from the blocks of 2 x 2 and the order of keys."""
    seen = torch.empty(q.shape[2], k.shape[2], dtype=torch.bool)
    place = order[0, 0].argsort()
    for a in range(q.shape[2]):
        for b in range(k.shape[2]):
            seen[a, b] = keep[0, 0, a // 2, place[b] // 2] and (b <= a or not causal)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, seen)[0, 0]


def rows(keep):
    return " ".join("".join(str(int(kept)) for kept in row) for row in keep[0, 0])


def test_the_published_causal_plan():
    """T1a."""
    q, k, v = toy(16)
    keep, order = plan_sequence(q, k, (2, 2), 4, 2, Pooled(), TopP(0.7))
    assert order.flatten().tolist() == [1, 0, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12]
    assert rows(keep) == "11000000 11000000 10110000 10110000 11011100 11001100 11001011 10101011"
    out = attend(q, k, v, keep, order, causal=True)
    torch.testing.assert_close(out[5], torch.tensor([4.449240, -0.735396]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(out[15], torch.tensor([8.185213, 0.120877]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.sum(0), torch.tensor([61.850553, 0.947393]).double(), rtol=0, atol=5e-6)


def test_the_published_causal_plan_keeping_everything_is_dense():
    q, k, v = toy(16)
    keep, order = plan_sequence(q, k, (2, 2), 4, 2, Pooled(), TopP(1.0))
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0, 0]
    torch.testing.assert_close(attend(q, k, v, keep, order, True), dense, rtol=0, atol=1e-12)
    torch.testing.assert_close(dense.sum(0), torch.tensor([62.030559, 1.334943]).double(), rtol=0, atol=1e-6)


def test_the_published_plan_without_causality():
    """T1c."""
    q, k, v = toy(12)
    keep, order = plan_grid(q, k, TokenGrid(1, 1, 12), (2, 2), None, 4, Pooled(), TopP(0.7), gated=False)
    assert order.flatten().tolist() == [6, 5, 9, 2, 3, 10, 8, 1, 0, 7, 11, 4]
    assert rows(keep) == "010100 100110 100000 100000 011001 011000"
    out = attend(q, k, v, keep, order, causal=False)
    torch.testing.assert_close(out[0], torch.tensor([5.317564, 0.005605]).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.sum(0), torch.tensor([66.741369, 0.782299]).double(), rtol=0, atol=5e-6)


SMALL = {"segment": 32, "block_size": (32, 16), "probes": 20}
LENGTHS = [1, 15, 16, 17, 31, 32, 33, 64 + 8 + 3, 100]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_keeping_everything_equals_dense(length, kv_heads):
    q, k, v = qkv(length, length, kv_heads=kv_heads)
    layout = Permuted(select=TopP(1), **SMALL).layout(q, k, None, Context())
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense_causal(q, k, v))


@pytest.mark.parametrize("lengths", [(40, 100), (1, 100), (33, 97), (100, 101)], ids=str)
@pytest.mark.parametrize("score", [Pooled(), Antidiagonal(8)], ids=lambda s: s.kind)
def test_queries_after_a_cache_are_exact_too(lengths, score):
    q, k, v = qkv(*lengths)
    policy = Permuted(select=TopP(1), score=score, **SMALL)
    layout = policy.layout(q, k, None, Context())
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense_causal(q, k, v))


@pytest.mark.parametrize("lengths", [(100, 100), (50, 100)], ids=str)
def test_no_query_sees_its_future(lengths):
    q, k, v = qkv(*lengths)
    layout = Permuted(select=TopP(0.5), **SMALL).layout(q, k, None, Context())
    before = block_sparse_attention(q, k, v, layout)[0]
    cut = 70
    v[:, :, cut:] = 1000
    after = block_sparse_attention(q, k, v, layout)[0]
    past = cut - (lengths[1] - lengths[0])
    assert torch.equal(before[:, :, :past], after[:, :, :past]) and not torch.equal(before, after)


def test_every_query_sees_itself_and_the_sink_block_is_kept():
    q, k, _ = qkv(200, 200)
    layout = Permuted(select=TopP(0.01), **SMALL).layout(q, k, None, Context())
    mask = layout.to_mask(2)
    assert mask.diagonal(dim1=-2, dim2=-1).all()
    assert mask[..., 0].all(), "the block with the first token"


def test_own_segments_are_exact():
    q, k, _ = qkv(200, 200)
    mask = Permuted(select=TopP(0.01), **SMALL).layout(q, k, None, Context()).to_mask(2)
    own = torch.arange(200) // 32
    assert (mask | ~((own == own[:, None]).tril())).all()


def test_the_order_permutes_whole_segments_and_leaves_the_rest():
    _, k, _ = qkv(1, 107)
    probes = torch.randn(2, 4, 9, 16, dtype=torch.float64)
    order = key_order(probes, k, range(0, 96, 32))
    assert order.shape == (2, 2, 107)
    assert torch.equal(order[..., 96:], torch.arange(96, 107).expand(2, 2, -1))
    segments = order[..., :96].unflatten(-1, (3, 32)).sort(-1).values
    assert torch.equal(segments, torch.arange(96).reshape(3, 32).expand(2, 2, -1, -1))


def test_heads_that_share_keys_share_their_order():
    _, k, _ = qkv(1, 64)
    probes = torch.randn(2, 4, 9, 16, dtype=torch.float64)
    attention = (probes @ k.repeat_interleave(2, 1).transpose(-1, -2) / 4).softmax(-1).mean(2)
    mean = attention.unflatten(1, (2, 2)).mean(2)
    assert torch.equal(key_order(probes, k, range(0, 64, 64)), mean.argsort(-1, descending=True))


def test_a_larger_share_keeps_a_larger_set():
    q, k, _ = qkv(300, 300)
    plans = [plan_sequence(q, k, (32, 16), 32, 20, Pooled(), TopP(tau))[0] for tau in (0.2, 0.6, 0.9, 1.0)]
    for smaller, larger in pairwise(plans):
        assert (larger | ~smaller).all() and larger.sum() > smaller.sum()


def test_blocks_all_in_the_future_are_not_listed():
    order = torch.tensor([[[1, 0, 3, 2, 5, 4, 6]]])
    visible = blocks_with_a_visible_key(order, 5, (2, 2))
    assert rows(visible) == "1100 1110 1111"


GRIDS = [TokenGrid(3, 9, 11), TokenGrid(3, 9, 11, 21), TokenGrid(3, 9, 11, 21, text_first=True)]


@pytest.mark.parametrize("segment", [None, 64])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_keeping_everything_on_a_grid_equals_dense(grid, segment):
    q, k, v = qkv(grid.tokens, grid.tokens)
    policy = Permuted(select=TopP(1), segment=segment, block_size=(64, 32))
    layout = policy.layout(q, k, grid, Context())
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_text_is_always_kept_and_never_sorted(grid):
    q, k, _ = qkv(grid.tokens, grid.tokens)
    layout = Permuted(select=TopK(0.2), segment=None, block_size=(64, 32)).layout(q, k, grid, Context())
    text = torch.ones(grid.tokens, dtype=torch.bool)
    text[grid.video_start : grid.video_start + grid.video_tokens] = False
    mask = layout.to_mask(2)
    assert mask[:, :, text].all() and mask[..., text].all()
    place = layout.kv_order.inverse.indices
    assert torch.equal(place[..., text], torch.arange(grid.tokens)[text].expand(2, 2, -1))
    assert layout.density < 1


def scattered(dim=16):
    """Heavy keys, one in every 32: sorting gathers them. A second head without any."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 512, dim, generator=generator)
    k = torch.randn(1, 2, 512, dim, generator=generator)
    q[:, 0, :, 0] = 8
    k[:, 0, ::32, 0] = 8
    return q, k


def test_sorting_gathers_scattered_heavy_keys():
    q, k = scattered()
    policy = Permuted(segment=None, select=TopP(0.9), block_size=(64, 32))
    layout = policy.layout(q, k, TokenGrid(2, 16, 16), Context())
    heavy = layout.kv_order.inverse.indices[0, 0, ::32]
    assert heavy.sort().values.tolist() == list(range(16))
    assert (layout.kv_num_blocks[0, 0] == 1).all()


def test_a_head_that_sorting_does_not_help_stays_in_place():
    q, k = scattered()
    k[:, 1, :32] *= 4
    layout = Permuted(segment=None, block_size=(64, 32)).layout(q, k, TokenGrid(2, 16, 16), Context())
    assert torch.equal(layout.kv_order.indices[0, 1], torch.arange(512))
    assert not torch.equal(layout.kv_order.indices[0, 0], torch.arange(512))


def test_blocks_for_mass_counts_the_blocks_of_most_attention():
    attention = torch.tensor([[0.5, 0.46, 0, 0, 0.04, 0], [0.3, 0.3, 0.2, 0.1, 0.05, 0.05]])[None, None]
    assert blocks_for_mass(attention[:, :, :1], 2).item() == 1
    assert blocks_for_mass(attention, 2).item() == 2
    assert blocks_for_mass(attention[:, :, 1:], 4).item() == 2


@pytest.mark.parametrize("grid", [None, TokenGrid(4, 5, 5)], ids=["sequence", "grid"])
def test_samples_of_a_batch_are_planned_alone(grid):
    q, k, _ = qkv(100, 100)
    policy = Permuted(select=TopP(0.5), **SMALL)
    both, alone = (policy.layout(q[s], k[s], grid, Context()) for s in (slice(0, 2), slice(1, 2)))
    assert torch.equal(both.listed[1:], alone.listed)
    assert torch.equal(both.kv_order.indices[1:], alone.kv_order.indices)


def test_everything_kept_in_sorted_order_equals_dense():
    """Layouts only sort where that saves blocks; this one is told to regardless."""
    q, k, v = qkv(107, 107)
    keep, order = plan_sequence(q, k, (16, 16), 32, 20, Pooled(), TopP(1.0))
    assert not torch.equal(order, torch.arange(107).expand_as(order))
    layout = BlockLayout.from_mask(keep, (16, 16), 107, 107, causal=True, kv_order=TokenOrder(order))
    assert layout.density > 1
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense_causal(q, k, v))


@pytest.mark.parametrize("mass", [0.2, 0.9, 1.0])
@pytest.mark.parametrize("lengths", [(65, 65), (100, 100), (300, 300), (1000, 1000), (40, 300)], ids=str)
def test_no_text_is_too_short_to_be_no_denser_than_dense(lengths, mass):
    q, k, _ = qkv(*lengths)
    layout = Permuted(select=TopP(mass), **SMALL).layout(q, k, None, Context())
    assert 0 < layout.density <= 1


def test_heads_are_sorted_where_that_saves_blocks_and_only_there():
    """The first key head's queries look at one key each, the second's at all alike."""
    q, k, v = qkv(250, 250)
    q[:, :2], k[:, 0, 7] = 3, 3
    q[:, 2:] *= 0.01
    fields = {**SMALL, "block_size": (16, 16)}
    layout = Permuted(select=TopP(0.95), **fields).layout(q, k, None, Context())
    in_place = (layout.kv_order.indices == torch.arange(250)).all(-1)
    assert in_place.tolist() == [[False, True]] * 2
    dense = dense_causal(q, k, v)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0][:, 2:], dense[:, 2:])


def test_large_logits_stay_finite():
    q, k, v = (x.float() for x in qkv(100, 100))
    layout = Permuted(select=TopP(0.5), **SMALL).layout(q * 100, k * 100, None, Context())
    assert block_sparse_attention(q * 100, k * 100, v, layout)[0].isfinite().all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segment": 200}, "multiple of the 128 keys of a block, got 200"),
        ({"segment": 0}, "greater than or equal to 16"),
        ({"probes": 0}, "greater than or equal to 1"),
        ({"tau": 0.9}, "tau"),
    ],
    ids=["segment", "no-segment", "no-probes", "unknown"],
)
def test_nonsense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Permuted(**fields)


def test_a_sequence_needs_segments_of_a_length():
    q, k, _ = qkv(100, 100)
    with pytest.raises(ValueError, match="segment must be a number"):
        Permuted(segment=None).layout(q, k, None, Context())
