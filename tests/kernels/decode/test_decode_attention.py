"""Decoding: a few queries over listed key blocks, on every tier, against attention token by token."""

from pathlib import Path

import pytest
import torch

from accel.kernels.decode.attention import decode_attention
from accel.kernels.layout.layout import BlockLayout
from kernel_cases import captured, run_cases

CASES = Path(__file__).with_name("decode_cases.py")


def test_cases_in_pytorch():
    run_cases(CASES, DECODE_TIER="torch", OMP_NUM_THREADS="1")


def test_cases_in_the_interpreter():
    pytest.importorskip("triton")
    run_cases(CASES, DECODE_TIER="triton", OMP_NUM_THREADS="1", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cases_on_the_gpu():
    run_cases(CASES, DECODE_TIER="triton", OMP_NUM_THREADS="1", TRITON_INTERPRET="0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_decoding_can_be_captured():
    q, k, v = (
        torch.randn(1, h, n, 128, device="cuda", dtype=torch.half) for h, n in ((8, 1), (2, 999), (2, 999))
    )
    layout = BlockLayout.full(1, 999, (16, 16), "cuda")
    expected = decode_attention(q, k, v, layout)[0]
    assert torch.equal(captured(lambda: decode_attention(q, k, v, layout)[0]), expected)


SHARED_MEMORY = 101_376  # bytes that a block can have on sm_86, sm_89 and sm_120


@pytest.mark.parametrize("capability", [80, 86, 90, 120], ids="sm_{}".format)
@pytest.mark.parametrize(
    ("dim", "columns", "rows", "queries", "dtype"),
    [
        (128, 16, 4, 1, torch.bfloat16),
        (128, 128, 32, 8, torch.bfloat16),
        (64, 16, 71, 1, torch.bfloat16),
        (256, 128, 40, 1, torch.bfloat16),
        (128, 16, 4, 1, torch.float32),
    ],
    ids=str,
)
def test_kernels_compile_without_spills(offline, capability, dim, columns, rows, queries, dtype):
    from accel.kernels.decode.triton import attend

    q, k = torch.empty(1, 8, rows, dim, dtype=dtype), torch.empty(1, 8, 4096, dim, dtype=dtype)
    layout = BlockLayout.full(queries, 4096, (16, columns))
    visible = torch.ones(1, queries, 4096, dtype=torch.bool)
    kernels = offline(capability, attend, q, k, k, layout, visible, 1.0)
    assert [kernel.name for kernel in kernels] == ["decode_kernel", "join_kernel"]
    for kernel in kernels:
        assert kernel.spills == 0 and kernel.shared_memory <= SHARED_MEMORY
    if dtype == torch.bfloat16:
        assert any(opcode.startswith(("HMMA", "HGMMA")) for opcode in kernels[0].sass)


def test_the_parts_of_a_long_list_are_joined_without_spills(offline):
    from accel.kernels.decode.triton import attend

    q, k = (torch.empty(1, 1, rows, 256, dtype=torch.bfloat16) for rows in (1, 65536))
    _, join = offline(86, attend, q, k, k, BlockLayout.full(1, 65536, (16, 16)), None, 1.0)
    assert join.spills == 0


def test_enough_programs_fill_the_device():
    from accel.kernels.decode.triton import split_lists

    for capacity, tile, heads in ((220, 4, 8), (3, 4, 8), (220, 4, 1000), (1, 1, 1)):
        splits, slots = split_lists(capacity, tile, heads, torch.device("cpu"))
        assert slots % tile == 0 and (splits - 1) * slots < capacity <= splits * slots
    assert split_lists(220, 4, 8, torch.device("cpu"))[0] >= 16


FULL = BlockLayout.full(1, 64, (16, 16))


@pytest.mark.parametrize(
    ("queries", "layout", "visible", "message"),
    [
        (2, FULL, None, "layout is for 1 queries and 64 keys"),
        (20, BlockLayout.full(20, 64, (16, 16)), None, "one block"),
        (1, BlockLayout.full(1, 64, (16, 16), tail=True), None, "no orders, tails"),
        (1, FULL, torch.ones(1, 2, 64, dtype=torch.bool), r"bool \[2 \| 1, 1, 64\]"),
        (1, FULL, torch.ones(1, 1, 64), "torch.float32"),
    ],
    ids=["lengths", "blocks", "tail", "mask-shape", "mask-type"],
)
def test_nonsense_is_refused(queries, layout, visible, message):
    q, k = torch.zeros(2, 4, queries, 16), torch.zeros(2, 2, 64, 16)
    with pytest.raises(ValueError, match=message):
        decode_attention(q, k, k, layout, visible)


def test_planning_and_attending_need_no_values():
    q, k = torch.empty(2, 4, 1, 16, device="meta"), torch.empty(2, 2, 64, 16, device="meta")
    layout = BlockLayout.full(1, 64, (16, 16), "meta")
    visible = torch.empty(2, 1, 64, dtype=torch.bool, device="meta")
    assert decode_attention(q, k, k, layout, visible)[0].shape == (2, 4, 1, 16)
