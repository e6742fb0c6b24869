"""The tests of the int8 tier; test_int8.py runs them in the interpreter or on a GPU."""

import os

import pytest
import torch

from accel.kernels.attention import reference
from accel.kernels.int8.attention import block_sparse_attention

pytestmark = pytest.mark.usefixtures("outputs_start_as_nan")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter's bf16 dot is wrong; the tier's own products are of int8 and of float16.
DTYPE = torch.float16
FORMS = {
    "plain": {},
    "cross": {"q_len": 130, "kv_len": 333},
    "one-block": {"q_len": 5, "kv_len": 9},
    "shared-lists": {"shared_lists": True, "block": (128, 64)},
    "empty-row": {"empty_row": True, "block": (128, 64)},
    "causal": {"causal": True},
    "causal-more-queries": {"causal": True, "kv_len": 100},
    "window": {"causal": True, "window": 70},
    "padded": {"batch": 2, "kv_lengths": (203, 77)},
    "all-padding": {"batch": 2, "kv_lengths": (150, 0)},
    "order": {"order": "heads"},
    "order-causal-padded": {"batch": 2, "order": "heads", "causal": True, "kv_lengths": (130, 203)},
    "tail": {"tail": True, "density": 0.3},
    "small-blocks": {"block": (16, 16), "q_len": 70, "kv_len": 90},
    "D128": {"dim": 128, "block": (128, 128), "q_len": 130},
}


def error(q, k, v, layout, **options):
    """The norm of the error over that of the truth, in float64, and the largest of the LSE's errors."""
    found, lse = block_sparse_attention(q, k, v, layout, **options)
    truth, true_lse = reference.block_sparse_attention(q.double(), k.double(), v.double(), layout, **options)
    finite = true_lse.isfinite()
    assert torch.equal(lse.isfinite(), finite) and (found[~finite] == 0).all() and found.isfinite().all()
    wrong = (found.double() - truth).norm() / truth.norm()
    return wrong.item(), (lse.double() - true_lse)[finite].abs().max().item()


def problem(base_case, **changes):
    case = base_case.with_(**{"batch": 1, "heads": 2, "kv_heads": 1, **changes})
    return (*case.qkv(DTYPE, DEVICE), case.layout(DEVICE))


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS.keys())
def test_random_normal_inputs(base_case, changes):
    wrong, lse = error(*problem(base_case, **changes))
    assert wrong <= 0.012 and lse <= 0.03


def test_what_keys_have_in_common_takes_no_bits(base_case):
    q, k, v, layout = problem(base_case, q_len=130)
    common = torch.randn(64, generator=torch.Generator().manual_seed(5)).to(DEVICE, DTYPE)
    assert error(q, k + 4 * common, v, layout)[0] <= 0.02


def test_values_beyond_float16(base_case):
    q, k, v, layout = problem(base_case, q_len=70)
    large = v.float() * 1e6
    found = block_sparse_attention(q.bfloat16(), k.bfloat16(), large.bfloat16(), layout)[0]
    assert large.abs().max() > 65_504 and found.isfinite().all()
    truth = reference.block_sparse_attention(q.double(), k.double(), large.double(), layout)[0]
    assert (found.double() - truth).norm() / truth.norm() <= 0.015


def test_keys_that_are_not_listed_may_be_anything(base_case):
    q, k, v, layout = problem(base_case, shared_lists=True, density=0.1, kv_len=400)
    unlisted = ~layout.to_mask()[0, 0].any(0)
    assert unlisted.any()
    k[:, :, unlisted], v[:, :, unlisted] = 0, 0
    expected = block_sparse_attention(q, k, v, layout)[0]
    v[:, :, unlisted] = torch.nan
    assert torch.equal(block_sparse_attention(q, k, v, layout)[0], expected)
    k[:, :, unlisted] = torch.inf
    assert block_sparse_attention(q, k, v, layout)[0].isfinite().all()


@pytest.mark.parametrize("anything", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_hidden(base_case, anything):
    q, k, v, layout = problem(base_case, density=1.0, kv_len=70, q_len=70)
    for tokens, place in ((q, (0, 0, 3, 1)), (k, (0, 0, 5, 2)), (v, (0, 0, 9, 3))):
        before = tokens[place].item()
        tokens[place] = anything
        found = block_sparse_attention(q, k, v, layout)[0]
        assert not found[0, 0, 3].isfinite().all()
        tokens[place] = before
