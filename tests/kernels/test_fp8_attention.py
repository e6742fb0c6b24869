import pytest
import torch

from accel.kernels import fp8_attention, reference
from accel.kernels.fp8_attention import block_sparse_attention, dequantise, quantise


@pytest.mark.parametrize("length", [1, 64, 101], ids="N{}".format)
def test_blocks_keep_their_largest_value_and_four_bits_of_the_rest(length):
    tokens = torch.randn(2, 3, length, 16) * torch.rand(2, 3, length, 1) * 1e3
    tokens[0, 0] = 0
    eight, scales = quantise(tokens, 32)
    assert eight.dtype == torch.float8_e4m3fn and scales.shape == (2, 3, -(-length // 32))
    back = dequantise(eight, scales, 32)
    step = scales.repeat_interleave(32, dim=2)[:, :, :length, None] * 2.0**-9
    assert ((back - tokens).abs() <= tokens.abs() / 16 + step).all()
    assert torch.equal(back[0, 0], tokens[0, 0])


CASES = {
    "plain": {"block": (128, 64)},
    "causal-padded": {"causal": True, "kv_lengths": (203, 77)},
    "order": {"order": "heads"},
    "empty-row": {"empty_row": True},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_as_exact_as_eight_bits_allow(base_case, changes):
    case = base_case.with_(**changes)
    q, k, v = case.qkv()
    layout = case.layout()
    exact, exact_lse = reference.block_sparse_attention(q, k, v, layout, return_lse=True)
    out, lse = block_sparse_attention(q, k, v, layout, return_lse=True)
    assert (out - exact).norm() < 0.06 * exact.norm()
    assert torch.equal(lse.isfinite(), exact_lse.isfinite())
    finite = lse.isfinite()
    torch.testing.assert_close(lse[finite], exact_lse[finite], rtol=0, atol=0.1)


def test_what_keys_have_in_common_costs_nothing_once_it_is_taken_out(base_case):
    q, k, v = base_case.qkv()
    k, layout = k + 20 * torch.randn(1, 1, 1, k.shape[3]), base_case.layout()
    exact = reference.block_sparse_attention(q.double(), k.double(), v.double(), layout).float()
    error = {
        smooth: (block_sparse_attention(q, k, v, layout, smooth=smooth) - exact).norm() / exact.norm()
        for smooth in (True, False)
    }
    assert error[True] < 0.06 and error[False] > 5 * error[True]


def test_a_tail_is_refused(base_case):
    case = base_case.with_(tail=True)
    with pytest.raises(ValueError, match="no tail"):
        fp8_attention.block_sparse_attention(*case.qkv(), case.layout())
