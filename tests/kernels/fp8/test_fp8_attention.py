import pytest
import torch

from accel.kernels.attention import reference
from accel.kernels.fp8.specification import block_sparse_attention, quantise, rotate


def test_tokens_keep_four_bits_each_and_blocks_of_queries_their_largest():
    q, k, v = (torch.randn(2, 3, n, 16) * torch.rand(2, 3, n, 1) * 1e3 for n in (101, 70, 70))
    q[0, 0] = 0
    eight = quantise(q, k, v, 32)
    assert eight.q.dtype == eight.k.dtype == eight.v.dtype == torch.float8_e4m3fn
    back = {
        "q": (eight.q, eight.q_scales.repeat_interleave(32, dim=2)[:, :, :101, None], rotate(q)),
        "k": (eight.k, eight.k_scales[..., None, None], rotate(k - k.mean(dim=2, keepdim=True))),
        "v": (eight.v, eight.v_scales[:, :, None], v),
    }
    for numbers, scales, tokens in back.values():
        error = (numbers.float() * scales - tokens).abs()
        assert (error <= tokens.abs() * (1 / 16 + 1e-5) + scales * 2.0**-9).all()
    assert (eight.q.float()[0, 0] == 0).all()
    assert eight.q.float()[1, :, :32].abs().amax() == eight.v.float().abs().amax() == 448


def test_rotated_products_are_the_same():
    q, k = torch.randn(2, 2, 3, 9, 64).unbind()
    torch.testing.assert_close(rotate(q) @ rotate(k).mT, q @ k.mT, rtol=1e-5, atol=1e-4)
    loud = torch.zeros(64).index_fill(0, torch.tensor(5), 8.0)
    assert (rotate(loud).abs() == 1).all()
    with pytest.raises(ValueError, match="power of two, got 96"):
        rotate(torch.zeros(96))


def test_what_is_not_finite_spoils_nothing_else():
    q, k, v = torch.randn(3, 1, 1, 40, 16).unbind()
    for tokens, fill in zip((q, k, v), (torch.nan, torch.inf, -torch.inf), strict=True):
        tokens[0, 0, 7] = fill
    eight = quantise(q, k, v, 32)
    for numbers in (eight.q, eight.k, eight.v):
        assert numbers[0, 0, 7].isnan().all() and numbers.isnan().sum() == 16
        assert numbers.float().nan_to_num().abs().amax() == 448
    assert eight.mean.isfinite().all()


CASES = {
    "plain": {"block": (128, 64)},
    "causal-padded": {"causal": True, "kv_lengths": (203, 77)},
    "order": {"order": "heads"},
    "empty-row": {"empty_row": True},
    "tail": {"tail": True, "density": 0.3, "order": "heads"},
    "tail-causal": {"tail": True, "density": 0.3, "causal": True, "kv_lengths": (203, 77)},
    "tail-empty-row": {"tail": True, "empty_row": True, "density": 0.1},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_as_exact_as_eight_bits_allow(base_case, changes):
    case = base_case.with_(**changes)
    q, k, v = case.qkv()
    layout = case.layout()
    exact, exact_lse = reference.block_sparse_attention(q, k, v, layout)
    out, lse = block_sparse_attention(q, k, v, layout)
    assert (out - exact).norm() < 0.06 * exact.norm()
    assert torch.equal(lse.isfinite(), exact_lse.isfinite())
    finite = lse.isfinite()
    torch.testing.assert_close(lse[finite], exact_lse[finite], rtol=0, atol=0.1)


def test_what_keys_have_in_common_costs_nothing_once_it_is_taken_out(base_case):
    q, k, v = base_case.qkv()
    k, layout = k + 20 * torch.randn(1, 1, 1, k.shape[3]), base_case.layout()
    exact = reference.block_sparse_attention(q.double(), k.double(), v.double(), layout)[0].float()
    error = {
        smooth: (block_sparse_attention(q, k, v, layout, smooth=smooth)[0] - exact).norm() / exact.norm()
        for smooth in (True, False)
    }
    assert error[True] < 0.06 and error[False] > 5 * error[True]
