"""heads_of: every head has the lists and orders of the layout that was chosen for it."""

import pytest
import torch

from accel.kernels.attention.reference import block_sparse_attention
from accel.kernels.layout.by_head import heads_of
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder


def layouts(length=50, heads=4, kv_heads=2):
    generator = torch.Generator().manual_seed(0)
    blocks = -(-length // 16)
    one = torch.rand(1, 1, blocks, blocks, generator=generator) < 0.5
    many = torch.rand(2, heads, blocks, blocks, generator=generator) < 0.4
    keys = torch.rand(2, kv_heads, length, generator=generator).argsort(-1)
    shared = torch.randperm(length, generator=generator)
    return [
        BlockLayout.from_mask(one, (16, 16), length, length, q_order=TokenOrder(shared)),
        BlockLayout.from_mask(many, (16, 16), length, length, kv_order=TokenOrder(keys)),
        BlockLayout.from_mask(one.logical_not(), (16, 16), length, length),
    ]


def test_each_head_attends_as_under_its_own_layout():
    choice = torch.tensor([[0, 2, 1, 0], [1, 1, 2, 0]])
    parts = layouts()
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, heads, 50, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    outputs = torch.stack([block_sparse_attention(q, k, v, part)[0] for part in parts])
    joined = block_sparse_attention(q, k, v, heads_of(parts, choice))[0]
    for b in range(2):
        for h in range(4):
            torch.testing.assert_close(joined[b, h], outputs[choice[b, h], b, h])


def test_layouts_in_the_order_of_the_sequence_stay_in_it():
    joined = heads_of(layouts()[2:] * 2, torch.tensor([[0, 1]]))
    assert joined.q_order is None and joined.kv_order is None


def test_layouts_of_other_blocks_are_refused():
    other = BlockLayout.full(50, 50, (32, 16))
    with pytest.raises(ValueError, match=r"must have the same form.*\(16, 16\).*\(32, 16\)"):
        heads_of([layouts()[0], other], torch.tensor([[0, 1]]))
