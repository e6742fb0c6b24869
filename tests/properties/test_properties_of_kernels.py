"""Any layout on any shape: the torch tier equals the specification, and rows are means of what they see."""

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from accel.kernels.attention.operation import attention_with_lse
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder

# Without shrinking: a failure is told at once, as it was drawn.
PHASES = (Phase.explicit, Phase.generate)
FIXED = settings(derandomize=True, deadline=None, database=None, phases=PHASES)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@st.composite
def problems(draw):
    """q, k, v and a layout: ragged, with rows that see nothing, padding, causality, orders, tails."""
    batch, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    q_len, kv_len = draw(st.integers(1, 90)), draw(st.integers(1, 120))
    dim = draw(st.sampled_from([8, 16, 20]))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    heads = kv_heads * group
    q = torch.randn(batch, q_len, heads, dim, generator=generator).transpose(1, 2).to(dtype)
    k, v = (torch.randn(batch, kv_heads, kv_len, dim, generator=generator).to(dtype) for _ in range(2))
    block = draw(st.sampled_from([(16, 16), (32, 16), (16, 64)]))
    lists = draw(st.sampled_from([(1, 1), (batch, 1), (batch, heads)]))
    shape = (*lists, -(-q_len // block[0]), -(-kv_len // block[1]))
    keep = torch.rand(shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))

    def order(length, most):
        per = draw(st.sampled_from([None, (), (1, most), (batch, most)]))
        if per is None:
            return None
        return TokenOrder(torch.rand(*per, length, generator=generator).argsort(dim=-1))

    lengths = draw(st.none() | st.lists(st.integers(0, kv_len), min_size=batch, max_size=batch))
    rest = {
        "causal": q_len <= kv_len and draw(st.booleans()),
        "tail": draw(st.booleans()),
        "kv_lengths": None if lengths is None else torch.tensor(lengths, dtype=torch.int32),
        "q_order": order(q_len, heads),
        "kv_order": order(kv_len, draw(st.sampled_from([kv_heads, heads]))),
    }
    return q, k, v, BlockLayout.from_mask(keep, block, q_len, kv_len, **rest)


@settings(FIXED, max_examples=60)
@given(problems())
def test_the_torch_tier_equals_the_specification(problem):
    q, k, v, layout = problem
    exact, exact_lse = attention_with_lse(q.double(), k.double(), v.double(), layout, tier="reference")
    out, lse = attention_with_lse(q, k, v, layout, tier="torch")
    assert out.shape == q.shape and out.dtype == q.dtype
    torch.testing.assert_close(out.double(), exact, atol=TOLERANCE[q.dtype], rtol=TOLERANCE[q.dtype])
    torch.testing.assert_close(lse, exact_lse, atol=TOLERANCE[q.dtype] * 4, rtol=TOLERANCE[q.dtype])


@settings(FIXED, max_examples=40)
@given(problems())
def test_a_row_that_sees_something_is_a_mean_of_values_and_one_that_does_not_is_zero(problem):
    q, k, _, layout = problem
    ones = torch.ones_like(k)
    out, lse = attention_with_lse(q, k, ones, layout)
    empty = lse.isneginf()
    assert (out[empty] == 0).all()
    torch.testing.assert_close(out[~empty], torch.ones_like(out[~empty]), atol=2e-2, rtol=0)


@settings(FIXED, max_examples=40)
@given(problems())
def test_a_layout_knows_its_own_density(problem):
    *_, layout = problem
    listed = layout.listed
    assert torch.equal(listed.sum(dim=-1, dtype=torch.int32), layout.kv_num_blocks)
    assert layout.density >= 0
    if not layout.causal:
        assert layout.density <= 1
        torch.testing.assert_close(layout.density, listed.double().mean(), check_dtype=False)
