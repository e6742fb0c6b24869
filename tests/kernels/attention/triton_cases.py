"""The tests of the Triton tier; test_triton_attention.py runs them in the interpreter or on a GPU."""

import os
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from accel.kernels.attention import tail, tail_triton
from accel.kernels.attention.triton import block_sparse_attention
from accel.kernels.layout.walk_triton import blocks_before
from kernel_cases import captured

pytestmark = pytest.mark.usefixtures("outputs_start_as_nan")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter's bf16 dot is wrong.
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]


def check(assert_exact, case, dtype=torch.float32, **options):
    q, k, v = case.qkv(dtype, DEVICE)
    layout = case.layout(DEVICE)
    assert_exact(block_sparse_attention(q, k, v, layout, **options), q, k, v, layout, **options)


def test_every_case_is_as_exact_as_eager(case, assert_exact):
    check(assert_exact, case.with_(dim=32, heads=2, kv_heads=1) if INTERPRETED else case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_types(base_case, assert_exact, dtype):
    check(assert_exact, base_case.with_(heads=2, kv_heads=1, causal=True, tail=True, density=0.3), dtype)


@pytest.mark.parametrize("dim", [64, 96, 128, 256], ids="D{}".format)
def test_head_dims_and_scales(base_case, assert_exact, dim):
    check(assert_exact, base_case.with_(dim=dim, causal=True, q_len=70, heads=2, kv_heads=1), scale=0.2)


@pytest.mark.parametrize(
    "block", [(16, 16), (32, 128), (128, 16), (128, 32), (128, 128)], ids="{0[0]}x{0[1]}".format
)
def test_block_sizes(base_case, assert_exact, block):
    check(assert_exact, base_case.with_(dim=16, block=block, causal=True, tail=True, heads=2, kv_heads=1))


def test_strided_views(base_case, assert_exact):
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in base_case.qkv(device=DEVICE))
    last_apart = torch.stack([v, v], dim=-1)[..., 0]
    layout = base_case.layout(DEVICE)
    assert_exact(block_sparse_attention(q, k, last_apart, layout), q, k, v, layout)


def test_lists_shared_by_stride_zero(base_case, assert_exact):
    case = base_case.with_(shared_lists=True)
    q, k, v = case.qkv(device=DEVICE)
    layout = case.layout(DEVICE)
    expanded = replace(
        layout,
        kv_indices=layout.kv_indices.expand(2, 4, -1, -1),
        kv_num_blocks=layout.kv_num_blocks.expand(2, 4, -1),
    )
    assert_exact(block_sparse_attention(q, k, v, expanded), q, k, v, layout)


def test_lengths_shared_by_stride_zero(base_case, assert_exact):
    q, k, v = base_case.qkv(device=DEVICE)
    lengths = torch.tensor([150, 3], dtype=torch.int32, device=DEVICE)[:1].expand(2)
    layout = replace(base_case.layout(DEVICE), kv_lengths=lengths)
    out = block_sparse_attention(q, k, v, layout)
    assert_exact(out, q, k, v, replace(layout, kv_lengths=lengths.contiguous()))


def test_keys_that_are_not_listed_are_not_read(base_case):
    q, k, v = base_case.qkv(device=DEVICE)
    layout = base_case.with_(shared_lists=True, density=0.1).layout(DEVICE)
    unlisted = ~layout.to_mask()[0, 0].any(0)
    assert unlisted.any()
    clean = block_sparse_attention(q, k, v, layout)[0]
    k[:, :, unlisted], v[:, :, unlisted] = torch.nan, torch.nan
    assert torch.equal(block_sparse_attention(q, k, v, layout)[0], clean)


PADDING = {
    "none": {},
    "lengths": {"kv_lengths": (203, 77)},
    "nothing-left": {"kv_lengths": (0, 203)},
    "shared-order": {"kv_lengths": (100, 203), "order": "shared"},
    "order-per-head": {"kv_lengths": (203, 50), "order": "heads"},
}


@pytest.mark.parametrize("changes", PADDING.values(), ids=PADDING.keys())
@pytest.mark.parametrize("columns", [128, 16], ids="keys{}".format)
def test_means_of_the_tail(base_case, changes, columns):
    case = base_case.with_(dim=40, tail=True, block=(64, columns), **changes)
    _, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in case.qkv(torch.float16))
    layout = case.layout()
    expected = tail.tail_means(k.double(), v.double(), layout)
    on_device = case.layout(DEVICE)
    means = tail_triton.tail_means(
        k.to(DEVICE), v.to(DEVICE), columns, on_device.kv_lengths, on_device.kv_order
    )
    for mean, exact in zip(means, expected, strict=True):
        assert mean.dtype == torch.float16
        torch.testing.assert_close(mean.cpu(), exact.half())


def test_lists_that_reach_into_the_future_are_masked(base_case, assert_exact):
    """A causal layout that was not made by `from_mask` may list blocks no query sees."""
    layout = replace(base_case.with_(density=1.0).layout(DEVICE), causal=True)
    q, k, v = base_case.qkv(device=DEVICE)
    assert_exact(block_sparse_attention(q, k, v, layout), q, k, v, layout)


@triton.jit
def count_kernel(list_ptr, counts_ptr, ends_ptr, out_ptr):
    place = tl.program_id(0)
    found = blocks_before(list_ptr, tl.load(counts_ptr + place), tl.load(ends_ptr + place))
    tl.store(out_ptr + place, found)


def test_lists_end_before_blocks_that_nobody_sees():
    lists = torch.tensor([0, 2, 3, 7, 8, 20, 21], dtype=torch.int32, device=DEVICE)
    pairs = [(count, end) for count in range(8) for end in (0, 1, 3, 8, 9, 21, 30)]
    counts, ends = torch.tensor(pairs, dtype=torch.int32, device=DEVICE).T.contiguous()
    found = torch.full_like(counts, -1)
    count_kernel[(len(pairs),)](lists, counts, ends, found)
    assert found.tolist() == [int((lists[:count] < end).sum()) for count, end in pairs]


@pytest.mark.parametrize("changes", [{"kv_lengths": (203, 77)}, {"causal": True}], ids=["padded", "causal"])
def test_blocks_that_nobody_sees_are_not_walked(base_case, assert_exact, changes):
    """Listed all the same, they cost no tile: the kernel ends the list before them."""
    case = base_case.with_(density=1.0, heads=1, kv_heads=1, dim=16, block=(16, 16), **changes)
    layout = replace(case.with_(causal=False).layout(DEVICE), causal=case.causal)
    q, k, v = case.qkv(device=DEVICE)
    result = block_sparse_attention(q, k, v, layout)
    assert_exact(result, q, k, v, layout)


@pytest.mark.parametrize("dim", [40, 72, 120], ids="D{}".format)
def test_head_dims_that_8_divides(base_case, assert_exact, dim):
    case = base_case.with_(dim=dim, q_len=130, tail=True, density=0.3, kv_lengths=(203, 77), order="shared")
    check(assert_exact, case, torch.float16)


if not INTERPRETED:

    def test_calls_wait_for_nothing_and_can_be_captured(base_case):
        case = base_case.with_(causal=True, tail=True, density=0.3, kv_lengths=(203, 77), order="heads")
        q, k, v = case.qkv(torch.float16, DEVICE)
        layout = case.layout(DEVICE)
        expected = block_sparse_attention(q, k, v, layout)[0]
        assert torch.equal(captured(lambda: block_sparse_attention(q, k, v, layout)[0]), expected)
