"""Visibility: nobody sees what is hidden, what was listed stays, and no query is left without a key."""

import pytest
import torch

from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.restricted import restricted, whole_blocks_first
from accel.kernels.layout.visibility import ALWAYS, NEVER, Visibility, block_bounds

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
    before, layout = listed.to_mask(2), restricted(listed, Visibility.chunks(TOKENS, TOKENS, CHUNK))
    chunk = torch.arange(TOKENS) // CHUNK
    past = chunk <= chunk[:, None]
    seen = layout.to_mask(2).expand(2, 4, -1, -1)
    assert not (seen & ~past).any() and (seen | ~(before & past)).all()
    assert seen.any(dim=3).all()
    assert ((layout.listed & ~listed.listed).sum(dim=3) <= 1).all()


def test_a_block_that_is_cut_is_masked_inside_and_one_beyond_is_not_listed():
    """Chunks of 24 in blocks of 16: the second block of queries is the first chunk's and the second's."""
    layout = restricted(BlockLayout.full(64, 64, (16, 16)), Visibility.chunks(64, 64, 24))
    assert layout.draw().split() == ["██··", "███·", "███·", "████"]
    assert layout.density == 1 and layout.dense_blocks == 12
    assert layout.to_mask()[0, 0].sum(dim=1).tolist() == [24] * 24 + [48] * 24 + [64] * 16


FRAME = 20
# Three generated frames, four tokens of padding, references of two of the frames, and padding again.
REFERENCES = Visibility(
    ((FRAME, 0), (FRAME, 1), (FRAME, 2), (4 + 2 * FRAME + 8, -1)),
    ((3 * FRAME, 0, ALWAYS), (4, *NEVER), (FRAME, 1, 1), (FRAME, 2, 2), (8, *NEVER)),
)


@pytest.mark.parametrize("rows", [16, 32], ids="{} rows".format)
def test_a_reference_is_listed_by_the_blocks_of_its_own_frame_and_padding_by_none(rows):
    layout = restricted(BlockLayout.full(112, 112, (rows, 16)), REFERENCES)
    mask = layout.to_mask()[0, 0]
    assert torch.equal(mask, REFERENCES.mask("cpu"))
    assert mask.sum(dim=1).tolist() == [60] * 20 + [80] * 40 + [0] * 52
    assert layout.density == 1 and layout.dense_blocks == int(layout.kv_num_blocks.sum())


def test_whole_blocks_come_first_in_a_list():
    layout, whole = whole_blocks_first(restricted(BlockLayout.full(112, 112, (16, 16)), REFERENCES), 2)
    mask = REFERENCES.mask("cpu")
    for row, (blocks, count, first) in enumerate(
        zip(layout.kv_indices[0, 0], layout.kv_num_blocks[0, 0], whole[0, 0], strict=True)
    ):
        seen = [mask[16 * row : 16 * row + 16, 16 * block : 16 * block + 16] for block in blocks[:count]]
        assert all(cell.all() for cell in seen[:first])
        assert not any(cell.all() for cell in seen[first:])
    assert whole.sum() > 0


def test_a_visibility_is_of_as_many_tokens_as_the_layout_and_no_causality():
    with pytest.raises(ValueError, match=r"visibility is of \(112, 112\) tokens"):
        BlockLayout.full(112, 100, visibility=REFERENCES)
    with pytest.raises(ValueError, match="takes the place of causality"):
        BlockLayout.full(112, 112, visibility=REFERENCES, causal=True)


def test_bounds_in_the_order_of_the_sequence_are_computed_once_and_are_those_of_that_order():
    seen, device = Visibility.chunks(TOKENS, TOKENS, CHUNK), torch.device("cpu")
    own = TokenOrder(torch.arange(TOKENS))
    bounds, same = block_bounds(seen, (16, 32), device), block_bounds(seen, (16, 32), device, own, own)
    assert bounds is block_bounds(seen, (16, 32), device)
    assert torch.equal(bounds.seen_by_some, same.seen_by_some)
    assert torch.equal(bounds.seen_by_all, same.seen_by_all)
