import pytest
import torch

from accel.kernels.check.forms import chunks_and_references
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.visibility import Visibility


def random_keep(batch, heads, q_blocks, kv_blocks, density=0.4):
    return torch.rand(batch, heads, q_blocks, kv_blocks) < density


def shared_order(n):
    return TokenOrder.checked(torch.randperm(n))


def head_order(n):
    return TokenOrder.checked(torch.stack([torch.randperm(n) for _ in range(4)]).view(2, 2, n))


def brute_force_mask(layout, keep, batch, heads):
    """Element by element, from the definition."""
    rows, columns = layout.block_size
    mask = torch.zeros(batch, heads, layout.q_len, layout.kv_len, dtype=torch.bool)
    for b in range(batch):
        for h in range(heads):
            head_keep = keep.expand(batch, heads, -1, -1)[b, h].tolist()
            q_from, kv_from = (
                (order.indices.expand(batch, heads, n) if order else torch.arange(n).expand(batch, heads, n))[
                    b, h
                ].tolist()
                for order, n in ((layout.q_order, layout.q_len), (layout.kv_order, layout.kv_len))
            )
            for i, query in enumerate(q_from):
                for j, key in enumerate(kv_from):
                    seen = head_keep[i // rows][j // columns]
                    if layout.causal:
                        last = query + layout.kv_len - layout.q_len
                        seen &= key <= last
                    if layout.visibility is not None:
                        seen &= bool(layout.visibility.mask("cpu")[query, key])
                    if layout.window is not None:
                        seen &= key > query + layout.kv_len - layout.q_len - layout.window
                    if layout.kv_lengths is not None:
                        seen &= key < int(layout.kv_lengths[b])
                    mask[b, h, query, key] = seen
    return mask


CASES = {
    "plain": {},
    "causal": {"causal": True},
    "padded": {"kv_lengths": torch.tensor([50, 17], dtype=torch.int32)},
    "one-order": {"q_order": shared_order(37), "kv_order": shared_order(53), "causal": True},
    "order-per-head": {"q_order": head_order(37), "kv_order": head_order(53), "causal": True},
    "window": {"causal": True, "window": 20},
    "chunk": {"visibility": Visibility.chunks(37, 53, 10)},
    "references": {"visibility": chunks_and_references(37, 53)},
    "references-in-orders": {
        "visibility": chunks_and_references(37, 53),
        "q_order": head_order(37),
        "kv_order": head_order(53),
    },
    "keys-per-head": {"kv_order": head_order(53), "kv_lengths": torch.tensor([53, 20], dtype=torch.int32)},
}


@pytest.mark.parametrize("lists", [(2, 2), (1, 1)], ids=["lists-per-head", "shared-lists"])
@pytest.mark.parametrize("rest", CASES.values(), ids=CASES.keys())
def test_to_mask_is_the_definition_element_by_element(rest, lists):
    keep = random_keep(*lists, 3, 4)
    layout = BlockLayout.from_mask(keep, (16, 16), 37, 53, **rest)
    expected = brute_force_mask(layout, keep, 2, 2)
    assert torch.equal(layout.to_mask(2).expand(2, 2, -1, -1), expected)


def test_from_mask_lists_ascend_and_come_back():
    keep = random_keep(2, 3, 5, 9)
    layout = BlockLayout.from_mask(keep, (128, 64), 600, 530)
    assert torch.equal(layout.listed, keep)
    assert torch.equal(layout.kv_num_blocks, keep.sum(-1).int())
    for row, count in zip(
        layout.kv_indices.view(-1, 9).tolist(), layout.kv_num_blocks.flatten().tolist(), strict=True
    ):
        assert row[:count] == sorted(set(row[:count]))


def test_slots_past_the_end_of_a_list_are_never_read():
    indices = torch.tensor([[[[1, 99, -7]]]], dtype=torch.int32)
    layout = BlockLayout(indices, torch.tensor([[[1]]], dtype=torch.int32), (64, 64), 10, 130)
    assert layout.listed.tolist() == [[[[False, True, False]]]]


@pytest.mark.parametrize("block", [(64, 64), (128, 64), (64, 128)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("lengths", [(300, 300), (130, 515), (515, 130)], ids="M{0[0]}-N{0[1]}".format)
@pytest.mark.parametrize("chunk", [0, 90], ids="chunk{}".format)
def test_a_full_causal_layout_lists_what_dense_executes(lengths, block, chunk):
    hides = {"visibility": Visibility.chunks(*lengths, chunk)} if chunk else {"causal": True}
    layout = BlockLayout.full(*lengths, block, **hides)
    assert layout.density == 1
    assert torch.equal(layout.to_mask(), layout.visible())
    assert int(layout.kv_num_blocks.sum()) == layout.dense_blocks


def test_density_is_executed_blocks_over_all_blocks():
    keep = torch.zeros(1, 2, 4, 5, dtype=torch.bool)
    keep[0, 0, :, :2] = True
    keep[0, 1, 0] = True
    layout = BlockLayout.from_mask(keep, (64, 64), 256, 320)
    assert layout.density == pytest.approx((8 + 5) / 40)
    assert BlockLayout.full(200, 300).density == 1


def test_draw_shows_a_row_of_queries_a_line():
    keep = torch.tensor([[[[True, False, True], [False, False, True]]]])
    assert BlockLayout.from_mask(keep, (64, 64), 100, 150).draw() == "█·█\n··█"


LISTS = torch.zeros(1, 1, 2, 3, dtype=torch.int32)
COUNTS = torch.zeros(1, 1, 2, dtype=torch.int32)
REFUSED = {
    "block-size": ((LISTS, COUNTS, (48, 64), 100, 100), r"block_size .* got \(48, 64\)"),
    "empty": ((LISTS, COUNTS, (64, 64), 100, 0), "at least 1, got 100 and 0"),
    "int64": ((LISTS.long(), COUNTS, (64, 64), 100, 100), "int32, got torch.int64"),
    "counts": ((LISTS, COUNTS[..., :1], (64, 64), 100, 100), r"got \(1, 1, 2, 3\) and \(1, 1, 1\)"),
    "blocks": ((LISTS, COUNTS, (64, 64), 200, 100), "are 4 blocks, got lists for 2"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_layout_refuses_what_contradicts_itself(arguments, message):
    with pytest.raises(ValueError, match=message):
        BlockLayout(*arguments)


@pytest.mark.parametrize("rest", [{"window": 5}, {"window": 0, "causal": True}], ids=str)
def test_layout_refuses_windows_that_are_none(rest):
    with pytest.raises(ValueError, match="a window is of at least 1 token"):
        BlockLayout(LISTS, COUNTS, (64, 64), 100, 100, **rest)
    with pytest.raises(ValueError, match="without a tail"):
        BlockLayout(LISTS, COUNTS, (64, 64), 100, 100, window=5, causal=True, tail=True)


def test_layout_refuses_orders_and_lengths_of_other_sizes():
    with pytest.raises(ValueError, match="kv_order permutes 99 tokens, expected 100"):
        BlockLayout(LISTS, COUNTS, (64, 64), 100, 100, kv_order=TokenOrder(torch.arange(99)))
    with pytest.raises(ValueError, match="kv_lengths must be int32"):
        BlockLayout(LISTS, COUNTS, (64, 64), 100, 100, kv_lengths=torch.tensor([3]))
    with pytest.raises(ValueError, match="Nb = 2"):
        BlockLayout.from_mask(torch.ones(1, 1, 2, 3, dtype=torch.bool), (64, 64), 100, 100)
