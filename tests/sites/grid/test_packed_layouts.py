"""A packed layout comes back as it was, at a fraction of the bytes."""

import pytest
import torch

import accel.sites.grid.layout_cache
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.patches.context import Context
from accel.recipe.reuse import Reuse
from accel.sites.grid.call import Call
from accel.sites.grid.layout_cache import LayoutCache, PackedLayout, kept, served


def layout(blocks=37, heads=3, **rest) -> BlockLayout:
    keep = torch.rand(1, heads, blocks, blocks, generator=torch.Generator().manual_seed(0)) < 0.3
    return BlockLayout.from_mask(keep, (16, 16), blocks * 16 - 5, blocks * 16 - 5, **rest)


def assert_alike(a, b):
    assert torch.equal(a.listed, b.listed) and torch.equal(a.kv_num_blocks, b.kv_num_blocks)
    assert a.kv_indices.dtype == b.kv_indices.dtype
    for name in ("block_size", "q_len", "kv_len", "causal", "tail", "q_order", "kv_order"):
        assert getattr(a, name) is getattr(b, name) or getattr(a, name) == getattr(b, name)


@pytest.mark.parametrize("blocks", [1, 7, 8, 9, 37])
@pytest.mark.parametrize(
    "rest",
    [{}, {"tail": True}, {"causal": True}, {"kv_lengths": torch.tensor([9], dtype=torch.int32)}],
    ids=str,
)
def test_it_comes_back_as_it_was(blocks, rest):
    before = layout(blocks, **rest)
    after = PackedLayout.of(before).unpacked()
    assert_alike(after, before)
    lists = [x.kv_indices.masked_fill(~valid(x), -1) for x in (before, after)]
    assert torch.equal(*lists)


def valid(found):
    return torch.arange(found.kv_indices.shape[3]) < found.kv_num_blocks[..., None]


def test_orders_are_kept():
    order = TokenOrder(torch.randperm(37 * 16 - 5))
    before = layout(q_order=order, kv_order=order)
    assert_alike(PackedLayout.of(before).unpacked(), before)


def test_only_large_ones_are_packed_and_then_small():
    small, large = layout(), layout(blocks=600)
    assert kept(small) is small
    packed = kept(large)
    assert isinstance(packed, PackedLayout)
    taken = packed.bits.nbytes + packed.rest.kv_indices.nbytes
    assert taken * 30 < large.kv_indices.nbytes
    assert_alike(served(packed), large)


def test_a_cache_hands_out_what_it_was_given(monkeypatch):
    monkeypatch.setattr(accel.sites.grid.layout_cache, "LARGE", 1)
    cache, made, store = LayoutCache(Reuse(steps=3)), layout(), {}
    steps = [Context(step=n, n_steps=4, progress=n / 4, generation=1) for n in range(3)]
    for context in steps:
        assert_alike(cache.layout(Call(context, "key", store), lambda: made), made)


def test_it_needs_no_numbers():
    q = torch.empty(1, 2, 37, 37, dtype=torch.bool, device="meta")
    found = BlockLayout.from_mask(q, (16, 16), 37 * 16, 37 * 16)
    assert PackedLayout.of(found).unpacked().device.type == "meta"
