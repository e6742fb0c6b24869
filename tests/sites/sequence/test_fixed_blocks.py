"""Fixed blocks: a window's lists hold its keys and nothing else; the last rows of a prompt see everything."""

import torch
from pytest import mark

from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.sites.sequence.fixed_blocks import BLOCK_SIZE, window_layout, with_dense_queries

CPU = torch.device("cpu")


@mark.parametrize("window", [1, 63, 64, 65, 300, 2000], ids="window={}".format)
@mark.parametrize("q_len, kv_len", [(1, 1), (700, 700), (129, 700), (1, 700), (128, 256)], ids=str)
def test_lists_are_the_blocks_that_some_query_sees(q_len, kv_len, window):
    layout = window_layout(q_len, kv_len, window, CPU)
    last = torch.arange(q_len)[:, None] + kv_len - q_len
    seen = (torch.arange(kv_len) <= last) & (torch.arange(kv_len) > last - window)
    assert torch.equal(layout.to_mask()[0, 0], seen)
    padded = torch.nn.functional.pad(seen, (0, -kv_len % BLOCK_SIZE[1], 0, -q_len % BLOCK_SIZE[0]))
    needed = padded.unflatten(0, (-1, BLOCK_SIZE[0])).unflatten(2, (-1, BLOCK_SIZE[1])).any(3).any(1)
    assert torch.equal(layout.listed[0, 0], needed)


def test_lists_are_as_long_as_the_window():
    assert window_layout(1_000_000, 1_000_000, 4096, CPU).kv_indices.shape[3] == 67


def sparse(q_len, kv_len, kv_order=None):
    keep = torch.rand(1, 2, -(-q_len // 16), -(-kv_len // 16)) < 0.3
    return BlockLayout.from_mask(keep, (16, 16), q_len, kv_len, causal=True, kv_order=kv_order)


@mark.parametrize("queries, first", [(1, 96), (4, 96), (5, 80), (20, 80), (100, 0), (500, 0)])
@mark.parametrize("ordered", [False, True], ids=["in-order", "permuted"])
@mark.parametrize("kv_len", [100, 150])
def test_last_rows_see_everything_and_the_others_what_they_saw(queries, first, ordered, kv_len):
    layout = sparse(100, kv_len, TokenOrder(torch.randperm(kv_len)) if ordered else None)
    before, after = layout.to_mask(), with_dense_queries(layout, queries).to_mask()
    assert torch.equal(after[:, :, first:], layout.visible().expand(1, 2, -1, -1)[:, :, first:])
    assert torch.equal(after[:, :, :first], before[:, :, :first])


def test_none_is_the_same_layout():
    layout = sparse(100, 100)
    assert with_dense_queries(layout, 0) is layout


def test_short_lists_are_lengthened():
    layout = BlockLayout(
        torch.zeros(1, 1, 4, 1, dtype=torch.int32), torch.ones(1, 1, 4, dtype=torch.int32), (16, 16), 64, 64
    )
    assert with_dense_queries(layout, 3).listed[0, 0].sum(dim=-1).tolist() == [1, 1, 1, 4]
    assert layout.listed[0, 0].sum(dim=-1).tolist() == [1, 1, 1, 1]


def test_last_rows_of_each_head_s_own_order_see_everything():
    order = TokenOrder(torch.stack([torch.randperm(100), torch.arange(100)])[None])
    keep = torch.rand(1, 1, 7, 7) < 0.3
    layout = BlockLayout.from_mask(keep, (16, 16), 100, 100, causal=True, q_order=order)
    before, after = layout.to_mask(), with_dense_queries(layout, 3).to_mask()
    assert torch.equal(after[:, :, -3:], layout.visible().expand(1, 2, -1, -1)[:, :, -3:])
    assert (after >= before).all() and not after.equal(before)
    assert torch.equal(after[0, 1, :96], before[0, 1, :96])
