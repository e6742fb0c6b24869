import math

import pytest
import torch
import torch.nn.functional as F

from accel.kernels.attention.reference import block_sparse_attention
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder


def test_masked_attention_agrees_with_pytorch(case):
    q, k, v = (x.double() for x in case.qkv())
    layout = case.with_(tail=False).layout()
    mask = layout.to_mask(case.batch)
    expected = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    expected = torch.where(mask.any(-1, keepdim=True), expected, 0.0)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], expected)


def test_a_full_layout_is_dense_attention():
    q, k, v = torch.randn(3, 1, 2, 150, 32).double()
    out = block_sparse_attention(q, k, v, BlockLayout.full(150, 150), scale=0.3)[0]
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, scale=0.3))


def one_query(q, keys, values, biases, scale):
    if not keys:
        return torch.zeros_like(values[0] if values else q), -math.inf
    scores = torch.stack([q @ key * scale + bias for key, bias in zip(keys, biases, strict=True)])
    return scores.softmax(0) @ torch.stack(values), scores.logsumexp(0).item()


def tail_by_hand(q, k, v, layout, batch, head, kv_head, query):
    """Out and LSE of one query, from the sentences of BlockLayout's docstring."""
    rows, columns = layout.block_size
    heads = q.shape[1]
    q_from, kv_from = (
        torch.arange(n)
        if order is None
        else order.indices.expand(2, -1, n)[batch, h]
        if order.indices.ndim == 3
        else order.indices
        for order, n, h in ((layout.q_order, layout.q_len, head), (layout.kv_order, layout.kv_len, kv_head))
    )
    length = layout.kv_len if layout.kv_lengths is None else int(layout.kv_lengths[batch])
    place = q_from.tolist().index(query)
    offset = layout.kv_len - layout.q_len
    block_queries = q_from[place // rows * rows : (place // rows + 1) * rows].tolist()
    listed = layout.listed.expand(2, heads, -1, -1)[batch, head, place // rows].tolist()
    keys, values, biases = [], [], []
    for block, is_listed in enumerate(listed):
        tokens = [t for t in kv_from[block * columns : (block + 1) * columns].tolist() if t < length]
        if is_listed:
            visible = [t for t in tokens if not layout.causal or t <= query + offset]
            keys += [k[batch, kv_head, t] for t in visible]
            values += [v[batch, kv_head, t] for t in visible]
            biases += [0.0] * len(visible)
        elif tokens and (not layout.causal or max(tokens) <= min(block_queries) + offset):
            keys.append(k[batch, kv_head, tokens].mean(0))
            values.append(v[batch, kv_head, tokens].mean(0))
            biases.append(math.log(len(tokens)))
    return one_query(q[batch, head, query], keys, values, biases, q.shape[-1] ** -0.5)


TAILS = {
    "plain": {},
    "causal": {"causal": True, "q_len": 70},
    "padded": {"kv_lengths": (90, 33)},
    "order-causal-padded": {"order": "heads", "causal": True, "kv_lengths": (90, 33)},
    "empty-row": {"empty_row": True},
}


@pytest.mark.parametrize("changes", TAILS.values(), ids=TAILS.keys())
def test_tail_is_the_docstring_query_by_query(base_case, changes):
    small = base_case.with_(tail=True, density=0.3, block=(32, 16), q_len=90, kv_len=90, dim=8)
    case = small.with_(**changes)
    q, k, v = (x.double() for x in case.qkv())
    layout = case.layout()
    out, lse = block_sparse_attention(q, k, v, layout)
    for batch in range(case.batch):
        for head in range(case.heads):
            for query in range(0, case.q_len, 7):
                expected, expected_lse = tail_by_hand(q, k, v, layout, batch, head, head // 2, query)
                torch.testing.assert_close(out[batch, head, query], expected)
                assert lse[batch, head, query].item() == pytest.approx(expected_lse, abs=1e-5)


def test_tail_is_exact_where_keys_do_not_vary_inside_a_block():
    q, k, v = torch.randn(3, 1, 2, 7, 16).double()
    q, k, v = (x.repeat_interleave(16, dim=2)[:, :, :107] for x in (q, k, v))
    keep = torch.rand(1, 2, 7, 7) < 0.3
    layout = BlockLayout.from_mask(keep, (16, 16), 107, 107, tail=True)
    torch.testing.assert_close(
        block_sparse_attention(q, k, v, layout)[0], F.scaled_dot_product_attention(q, k, v)
    )


def test_tail_of_a_full_layout_is_nothing():
    q, k, v = torch.randn(3, 1, 1, 100, 16).double()
    layout = BlockLayout.full(100, 100, (32, 32), tail=True)
    torch.testing.assert_close(
        block_sparse_attention(q, k, v, layout)[0], F.scaled_dot_product_attention(q, k, v)
    )


def test_rows_that_see_nothing_are_zero_with_an_lse_of_minus_infinity():
    q, k, v = torch.randn(3, 1, 1, 40, 16)
    keep = torch.tensor([[[[True, True, True], [False, False, False], [True, False, False]]]])
    out, lse = block_sparse_attention(q, k, v, BlockLayout.from_mask(keep, (16, 16), 40, 40))
    assert lse.dtype == torch.float32
    assert torch.equal(lse[0, 0].isneginf(), (torch.arange(40) // 16) == 1)
    assert torch.equal(out[0, 0, 16:32], torch.zeros(16, 16))
    assert out.isfinite().all()


def test_a_full_layout_does_not_see_orders():
    q, k, v = torch.randn(3, 1, 2, 90, 16).double()
    orders = {name: TokenOrder(torch.randperm(90)) for name in ("q_order", "kv_order")}
    layout = BlockLayout.full(90, 90, (32, 32), causal=True, **orders)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], expected)
