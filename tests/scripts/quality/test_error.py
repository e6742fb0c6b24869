"""The judge of the policy benchmark: its numbers are those of the operation that the models call."""

import pytest
import torch

from accel.kernels.attention.operation import attention_with_lse, block_sparse_attention
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from scripts.quality.error import Probes


@pytest.mark.parametrize("tail", [False, True], ids=["drop", "tail"])
@pytest.mark.parametrize("ordered", [False, True], ids=["in-order", "permuted"])
def test_error_and_recall_are_those_of_the_operation(ordered, tail):
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 100, 16, generator=generator).unbind()
    keep = torch.rand(1, 2, 4, 7, generator=generator) < 0.4
    keep[..., 0] = True
    orders = {
        "q_order": TokenOrder(torch.randperm(100, generator=generator)),
        "kv_order": TokenOrder(
            torch.stack([torch.randperm(100, generator=generator) for _ in range(2)])[None]
        ),
    }
    layout = BlockLayout.from_mask(keep, (32, 16), 100, 100, tail=tail, **(orders if ordered else {}))
    dense, dense_lse = attention_with_lse(q, k, v, BlockLayout.full(100, 100, (32, 16)))
    dropped = BlockLayout.from_mask(keep, (32, 16), 100, 100, **(orders if ordered else {}))
    _, lse = attention_with_lse(q, k, v, dropped)
    out = block_sparse_attention(q, k, v, layout)
    found = Probes(q, k, v, step=1).judge(layout)
    assert found.recall == pytest.approx((lse - dense_lse).exp().mean().item(), rel=1e-5)
    assert found.error == pytest.approx(((out - dense).norm() / dense.norm()).item(), rel=1e-4)
