"""The operation in one graph of torch.compile: no break, the same bits, every field of a layout."""

import pytest
import torch

from accel.kernels.attention.operation import block_sparse_attention

FORMS = {
    "plain": ("reference", {}),
    "window": (None, {"causal": True, "window": 70, "kv_lengths": (203, 77)}),
    "orders": ("torch", {"order": "heads", "q_len": 130, "tail": True, "block": (64, 32)}),
}


@pytest.mark.parametrize(("tier", "changes"), FORMS.values(), ids=FORMS.keys())
def test_one_graph_gives_what_eager_code_does(base_case, tier, changes):
    case = base_case.with_(**changes)
    q, k, v = case.with_(dim=32).qkv()
    layout = case.layout()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(q, k, v):
        out, lse = block_sparse_attention(q * 2, k, v, layout, scale=0.3, return_lse=True, tier=tier)
        return out.sin(), lse

    torch._dynamo.reset()
    out, lse = block_sparse_attention(q * 2, k, v, layout, scale=0.3, return_lse=True, tier=tier)
    with torch.no_grad():
        compiled = step(q, k, v)
    assert torch.equal(compiled[0], out.sin()) and torch.equal(compiled[1], lse)


def test_inductor_takes_the_strides_as_they_come(base_case):
    q, k, v = base_case.with_(dim=32).qkv()
    layout = base_case.layout()

    @torch.compile(fullgraph=True)
    def step(q, k, v):
        return block_sparse_attention(q, k, v, layout).transpose(1, 2).flatten(2) + 1

    with torch.no_grad():
        expected = block_sparse_attention(q, k, v, layout).transpose(1, 2).flatten(2) + 1
        torch.testing.assert_close(step(q, k, v), expected)


def test_mistakes_are_told_while_tracing(base_case):
    q, k, v = base_case.qkv()
    compiled = torch.compile(block_sparse_attention, fullgraph=True, backend="aot_eager")
    with torch.no_grad(), pytest.raises(Exception, match="the layout is of 203 queries"):
        compiled(q[:, :, :100], k, v, base_case.layout())
