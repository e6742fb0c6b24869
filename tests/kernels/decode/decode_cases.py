"""The tests of decoding on every tier; test_decode_attention.py runs them."""

import os
from dataclasses import replace

import pytest
import torch

from accel.kernels.decode.attention import decode_attention
from accel.kernels.layout.blocks import per_head
from accel.kernels.layout.layout import BlockLayout

pytestmark = pytest.mark.usefixtures("outputs_start_as_nan")
TIER = os.environ.get("DECODE_TIER", "torch")
DEVICE = "cuda" if TIER == "triton" and os.environ.get("TRITON_INTERPRET") != "1" else "cpu"
BATCH, KV_HEADS, KEYS = 2, 2, 333


def qkv(queries, group=2, dim=32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((KV_HEADS * group, queries), (KV_HEADS, KEYS), (KV_HEADS, KEYS))
    return [torch.randn(BATCH, h, t, dim, generator=generator).to(DEVICE, dtype) for h, t in shapes]


def lists(queries, columns=16, density=0.4, room=3, shared=False, **rest):
    """Random lists that differ in length, with `room` slots of nonsense behind the longest."""
    generator = torch.Generator().manual_seed(1)
    blocks = -(-KEYS // columns)
    keep = torch.rand(*((1, 1) if shared else (BATCH, KV_HEADS)), 1, blocks, generator=generator) < density
    keep[..., 0] = True
    layout = BlockLayout.from_mask(keep, (16, columns), queries, KEYS, **rest)
    nonsense = torch.full((*layout.kv_indices.shape[:3], room), 1 << 20, dtype=torch.int32)
    return replace(
        layout,
        kv_indices=torch.cat([layout.kv_indices, nonsense], 3).to(DEVICE),
        kv_num_blocks=layout.kv_num_blocks.to(DEVICE),
    )


def exact(q, k, v, layout, visible, scale):
    """Dense attention under a mask, token by token, in the type of q."""
    heads = q.shape[1]
    mask = per_head(layout.to_mask(BATCH), heads)
    mask = mask if visible is None else mask & visible[:, None]
    k, v = per_head(k, heads), per_head(v, heads)
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse.nan_to_num(neginf=0)[..., None]).exp() @ v, lse.float()


def check(queries=1, visible=None, scale=0.3, dtype=torch.float32, group=2, dim=32, **rest):
    q, k, v = qkv(queries, group, dim, dtype)
    layout = lists(queries, **rest)
    got = decode_attention(q, k, v, layout, visible, scale=scale, tier=TIER)
    truth = exact(*(x.double() for x in (q, k, v)), layout, visible, scale)
    eager = exact(q, k, v, layout, visible, scale)
    assert got[0].dtype == dtype and got[0].shape == q.shape
    for name, value, rounded, true in zip(("out", "lse"), got, eager, truth, strict=True):
        true, value = true.double(), value.double()
        finite = true.isfinite()
        assert torch.equal(value.isfinite(), finite), name
        error, budget = ((x.double() - true)[finite].abs().max() for x in (value, rounded))
        assert error <= 2 * budget + 1e-5, f"{name}: {error:.2e} > 2 x {budget:.2e}"


@pytest.mark.parametrize("group", [1, 2, 5, 8])
@pytest.mark.parametrize("queries", [1, 3])
def test_groups_and_a_few_queries(group, queries):
    check(queries, group=group, causal=True)


def test_more_rows_for_a_key_head_than_a_tile_has():
    check(3, group=7, dim=16, causal=True)


@pytest.mark.parametrize("columns", [16, 32, 64, 128])
def test_blocks_of_keys(columns):
    check(columns=columns)


@pytest.mark.parametrize("dim", [16, 40, 128])
def test_head_dims(dim):
    check(dim=dim)


def test_half_precision():
    check(dtype=torch.float16, dim=64)


def test_lists_shared_by_samples_and_heads():
    check(3, shared=True, causal=True)


def windows(begins, ends, queries):
    """Bool [B, M, N]: query r of each sample sees from `begin` to `end` - M + r."""
    keys, query = torch.arange(KEYS), torch.arange(queries)[:, None]
    begins, ends = (torch.tensor(x)[:, None, None] for x in (begins, ends))
    return ((keys >= begins) & (keys <= ends - queries + query)).to(DEVICE)


@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize(
    ("begins", "ends"),
    [([0, 50], [332, 332]), ([0, 0], [200, 17]), ([7, 120], [250, 250])],
    ids=["padded-left", "unwritten-end", "both"],
)
def test_what_may_be_seen(begins, ends, queries):
    check(queries, windows(begins, ends, queries))


def test_holes_and_a_sample_that_sees_nothing():
    visible = (torch.rand(BATCH, 1, KEYS, generator=torch.Generator().manual_seed(2)) < 0.5).to(DEVICE)
    visible[1] = False
    check(1, visible)


def test_one_mask_for_all_samples():
    check(1, windows([30], [250], 1))


def test_every_block_listed_is_dense_attention():
    q, k, v = qkv(1)
    layout = BlockLayout.full(1, KEYS, (16, 16), DEVICE)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(decode_attention(q, k, v, layout, tier=TIER)[0], dense, atol=1e-5, rtol=1e-5)


def test_keys_that_are_not_listed_are_not_read():
    q, k, v = qkv(1)
    layout = lists(1, density=0.1, shared=True)
    clean = decode_attention(q, k, v, layout, tier=TIER)[0]
    unlisted = ~layout.to_mask()[0, 0, 0]
    assert unlisted.any()
    k[:, :, unlisted], v[:, :, unlisted] = torch.nan, torch.nan
    assert torch.equal(decode_attention(q, k, v, layout, tier=TIER)[0], clean)


def test_strided_views():
    q, k, v = qkv(1)
    layout = lists(1)
    expected = decode_attention(q, k, v, layout, tier=TIER)[0]
    apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(decode_attention(*apart, layout, tier=TIER)[0], expected)
