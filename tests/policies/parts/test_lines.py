"""Vertical-slash and FlexPrefill: sums and blocks against loops over tokens, and which head gets which."""

import pytest
import torch
from pydantic import TypeAdapter

from accel.kernels.attention.reference import block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.parts import lines
from accel.policies.parts.flex_prefill import FlexPrefill, jensen_shannon, reaching
from accel.policies.parts.lines import blocks_of_lines, line_sums, probe_attention
from accel.policies.parts.vertical_slash import VerticalSlash, strongest
from causal_qkv import dense_causal, qkv

LENGTHS = [(100, 100), (37, 100), (5, 70)]


def composed(**choose):
    fields = {"method": "compose", "choose": choose, "block_size": [32, 16]}
    return TypeAdapter(Composed).validate_python(fields)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_probes_attend_as_dense_attention_does(lengths):
    q, k, v = qkv(*lengths)
    attention = probe_attention(q, k, 9)
    expected = dense_causal(q, k, v)[:, :, -9:]
    torch.testing.assert_close(
        (attention.double() @ v.repeat_interleave(2, 1)), expected, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_sums_along_lines_are_those_of_a_loop(lengths, monkeypatch):
    q, k, _ = qkv(*lengths)
    attention = probe_attention(q, k, 9)
    rows, kv_len = attention.shape[2:]
    columns, slashes = torch.zeros(2, 2, 4, kv_len)
    for row in range(rows):
        for key in range(kv_len - rows + row + 1):
            columns[..., key] += attention[:, :, row, key]
            slashes[..., kv_len - rows + row - key] += attention[:, :, row, key]
    for chunk in (lines.CHUNK_ELEMENTS, 1):
        monkeypatch.setattr(lines, "CHUNK_ELEMENTS", chunk)
        got = line_sums(q, k, 9)
        torch.testing.assert_close(got[0], columns)
        torch.testing.assert_close(got[1], slashes)
        assert got[0].sum(-1).allclose(torch.tensor(float(rows)))


@pytest.mark.parametrize("block", [(16, 16), (32, 16), (16, 64)], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_blocks_of_lines_are_those_of_their_tokens(lengths, block):
    m, n = lengths
    generator = torch.Generator().manual_seed(3)
    columns, slashes = torch.rand(2, 1, 2, n, generator=generator) < 0.03
    got = blocks_of_lines(columns, slashes, block, m)
    expected = torch.zeros_like(got)
    for row in range(m):
        for key in range(row + n - m + 1):
            on_a_line = columns[..., key] | slashes[..., row + n - m - key]
            expected[:, :, row // block[0], key // block[1]] |= on_a_line
    # A column is rounded up to its blocks, also where the key itself is later than some query of the block.
    assert not (expected & ~got).any()
    assert (got & ~expected).sum() <= columns.sum()
    assert torch.equal(
        blocks_of_lines(columns & False, slashes, block, m), through_blocks(slashes, block, m, n)
    )


def through_blocks(slashes, block, m, n):
    keep = torch.zeros(1, 2, -(-m // block[0]), -(-n // block[1]), dtype=torch.bool)
    for row in range(m):
        for key in range(row + n - m + 1):
            keep[:, :, row // block[0], key // block[1]] |= slashes[..., row + n - m - key]
    return keep


def test_the_first_keys_and_the_nearest_are_always_among_the_lines():
    q, k, _ = qkv(200, 200)
    layout = composed(kind="vertical_slash", verticals=5, slashes=40, first=5, nearest=40).layout(
        q, k, None, Context()
    )
    row, key = torch.arange(200)[:, None], torch.arange(200)
    always = (key <= row) & ((key < 5) | (row - key < 40))
    assert layout.to_mask(2)[..., always].all() and layout.density < 0.7


def test_the_strongest_lines_are_counted():
    sums = torch.tensor([[0.1, 0.5, 0.2, 0.5, 0.0]])
    assert strongest(sums, 2).tolist() == [[False, True, False, True, False]]
    assert strongest(sums, 9).all()


def test_the_fewest_lines_that_reach_a_share():
    sums = torch.tensor([[0.1, 0.5, 0.2, 0.2]])
    assert reaching(sums, 0.49).tolist() == [[False, True, False, False]]
    assert reaching(sums, 0.6).tolist() == [[False, True, True, False]]
    assert reaching(sums, 1.0).all()


def test_jensen_shannon_distance():
    a, b = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert jensen_shannon(a, b).tolist() == pytest.approx([torch.tensor(2.0).log().sqrt().item(), 0.0])


EVERYTHING = [
    {"kind": "vertical_slash", "verticals": 10_000, "slashes": 1},
    {"kind": "vertical_slash", "verticals": 1, "slashes": 10_000},
    {"kind": "flex_prefill", "mass": 1, "distance": 0},
    {"kind": "flex_prefill", "mass": 1, "distance": 1},
]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("choose", EVERYTHING, ids=["verticals", "slashes", "lines", "pooled"])
def test_keeping_everything_equals_dense(choose, lengths):
    q, k, v = qkv(*lengths)
    layout = composed(**choose).layout(q, k, None, Context())
    assert layout.density == 1
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense_causal(q, k, v))


@pytest.mark.parametrize(
    "choose",
    [{"kind": "vertical_slash", "verticals": 3, "slashes": 20, "nearest": 1}, EVERYTHING[2] | {"mass": 0.3}],
)
def test_every_query_sees_itself_and_no_future(choose):
    q, k, v = qkv(200, 200)
    layout = composed(**choose).layout(q, k, None, Context())
    assert layout.density < 1 and layout.to_mask(2).diagonal(dim1=-2, dim2=-1).all()
    before = block_sparse_attention(q, k, v, layout)[0]
    v[:, :, 150:] = 1000
    assert torch.equal(block_sparse_attention(q, k, v, layout)[0][:, :, :150], before[:, :, :150])


def test_a_vertical_and_a_slash_are_found():
    """One head looks at key 70, the other 48 tokens back."""
    q, k = torch.zeros(1, 2, 256, 64), torch.zeros(1, 2, 256, 64)
    q[0, 0, :, 0], k[0, 0, 70, 0] = 60, 60
    places = torch.nn.functional.one_hot(torch.arange(256) % 64, 64).float()
    k[0, 1], q[0, 1] = 30 * places, 30 * places.roll(48, 0)
    layout = composed(kind="vertical_slash", verticals=2, slashes=2, first=1, nearest=1, probes=16).layout(
        q, k, None, Context()
    )
    mask = layout.to_mask()
    assert mask[0, 0, 70:, 70].all() and not mask[0, 0, 200:, 96:160].any()
    back = torch.arange(48, 256)
    assert mask[0, 1, back, back - 48].all() and layout.density < 0.5


def test_heads_that_means_serve_are_told_from_those_they_do_not():
    """Equal keys inside blocks are their mean; a single heavy key is lost in it."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 128, 16, generator=generator)
    k = torch.randn(1, 2, 8, 16, generator=generator).repeat_interleave(16, 2)
    q[:, 0] = q[:, 0, :1]
    q[:, 1], k[:, 1] = 1, torch.randn(128, 16, generator=generator) * 0.1
    k[0, 1, 5], k[0, 1, 6] = 4, -4
    near = FlexPrefill(probes=32).distances(q, k, 16)[0]
    assert near[0] < 0.2 < near[1]


def test_distances_of_a_few_heads_at_a_time_are_the_same(monkeypatch):
    q, k, _ = qkv(100, 100)
    whole = FlexPrefill(probes=32).distances(q, k, 16)
    monkeypatch.setattr(lines, "CHUNK_ELEMENTS", 1)
    assert torch.equal(FlexPrefill(probes=32).distances(q, k, 16), whole)


@pytest.mark.parametrize("choose", [VerticalSlash(), FlexPrefill()], ids=lambda c: c.kind)
def test_choosing_needs_no_values(choose):
    q, k = (torch.empty(2, heads, 300, 16, device="meta") for heads in (4, 2))
    assert Composed(choose=choose).layout(q, k, None, Context()).device.type == "meta"


def test_what_contradicts_itself_is_refused():
    grid = TokenGrid(1, 1, 100)
    q, k, _ = qkv(100, 100)
    with pytest.raises(ValueError, match="for sequences without a grid"):
        composed(kind="flex_prefill").layout(q, k, grid, Context(grid=grid))
    both = {
        "score": {"kind": "pooled"},
        "select": {"kind": "top_p", "mass": 0.5},
        "choose": {"kind": "flex_prefill"},
    }
    with pytest.raises(ValueError, match="choose replaces score and select"):
        TypeAdapter(Composed).validate_python({"method": "compose", **both})
