"""Causality in chunks: nothing later is seen, what was listed stays, and no query is left without a key."""

import pytest
import torch

from accel.kernels.layout.chunks import causal_in_chunks
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder

TOKENS, CHUNK = 101, 23


def order(*heads: int) -> TokenOrder:
    generator = torch.Generator().manual_seed(sum(heads))
    return TokenOrder(torch.rand(*heads, TOKENS, generator=generator).argsort(-1))


SHARED = order()
ORDERS = {
    "in sequence": {},
    "in one order": {"q_order": SHARED, "kv_order": SHARED},
    "in an order per head": {"q_order": order(2, 4), "kv_order": order(2, 2)},
}


@pytest.mark.parametrize("orders", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("block", [(16, 16), (32, 16), (16, 64)], ids="{0[0]}x{0[1]}".format)
def test_what_is_seen_is_what_was_listed_and_is_in_no_later_chunk(orders, block):
    generator = torch.Generator().manual_seed(0)
    blocks = [-(-TOKENS // rows) for rows in block]
    listed = BlockLayout.from_mask(
        torch.rand(2, 4, *blocks, generator=generator) < 0.3, block, TOKENS, TOKENS, **orders
    )
    before, layout = listed.to_mask(2), causal_in_chunks(listed, CHUNK)
    chunk = torch.arange(TOKENS) // CHUNK
    past = chunk <= chunk[:, None]
    seen = layout.to_mask(2).expand(2, 4, -1, -1)
    assert not (seen & ~past).any() and (seen | ~(before & past)).all()
    assert seen.any(dim=3).all()
    assert ((layout.listed & ~listed.listed).sum(dim=3) <= 1).all()


def test_a_block_that_is_cut_is_masked_inside_and_one_beyond_is_not_listed():
    """Chunks of 24 in blocks of 16: the second block of queries is the first chunk's and the second's."""
    layout = causal_in_chunks(BlockLayout.full(64, 64, (16, 16)), 24)
    assert layout.draw().split() == ["██··", "███·", "███·", "████"]
    assert layout.density == 1 and layout.dense_blocks == 12
    assert layout.to_mask()[0, 0].sum(dim=1).tolist() == [24] * 24 + [48] * 24 + [64] * 16
