from pathlib import Path

import pytest
import torch

from kernel_cases import run_cases

CASES = Path(__file__).with_name("triton_cases.py")


def test_cases_in_the_interpreter(interpreter):
    run_cases(CASES, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET="0")


BLOCKS = [(64, (128, 64)), (128, (128, 128)), (128, (128, 32)), (128, (64, 64)), (128, (64, 16))]
SHARED_MEMORY = {80: 166_912, 90: 232_448}  # bytes


def compiled(offline, case, dtype, capability):
    from accel.kernels.attention.triton import block_sparse_attention

    case = case.with_(causal=True, tail=True, kv_lengths=(203, 70))
    kernels = offline(capability, block_sparse_attention, *case.qkv(dtype), case.layout())
    assert [kernel.name for kernel in kernels] == ["block_sparse_kernel", "tail_kernel"]
    return kernels


@pytest.mark.parametrize("capability", [80, 90], ids="sm_{}".format)
@pytest.mark.parametrize(("dim", "block"), BLOCKS, ids=[f"D{d}-{b[0]}x{b[1]}" for d, b in BLOCKS])
def test_kernels_compile_without_spills(base_case, offline, capability, dim, block):
    for kernel in compiled(offline, base_case.with_(dim=dim, block=block), torch.bfloat16, capability):
        assert kernel.spills == 0
        assert kernel.shared_memory <= SHARED_MEMORY[capability]
        assert any(opcode.startswith(("HMMA", "HGMMA")[capability == 90]) for opcode in kernel.sass)


@pytest.mark.parametrize("capability", [80, 90], ids="sm_{}".format)
@pytest.mark.parametrize(
    ("dim", "dtype"),
    [(96, torch.float16), (256, torch.bfloat16), (128, torch.float32), (256, torch.float32)],
    ids=str,
)
def test_larger_heads_and_types_fit(base_case, offline, capability, dim, dtype):
    for kernel in compiled(offline, base_case.with_(dim=dim, block=(128, 64)), dtype, capability):
        assert kernel.shared_memory <= SHARED_MEMORY[capability]
        assert kernel.spills == 0


@pytest.mark.parametrize("capability", [80, 90], ids="sm_{}".format)
def test_windows_compile_without_spills(base_case, offline, capability):
    from accel.kernels.attention.triton import block_sparse_attention

    case = base_case.with_(dim=128, block=(128, 64), causal=True, window=100)
    (kernel,) = offline(capability, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    assert kernel.spills == 0


@pytest.mark.parametrize("capability", [80, 90], ids="sm_{}".format)
@pytest.mark.parametrize("dim", [128, 256], ids="D{}".format)
def test_means_of_the_tail_compile_without_spills(base_case, offline, dim, capability):
    from accel.kernels.attention.tail_means_triton import tail_means

    case = base_case.with_(dim=dim, order="heads", kv_lengths=(203, 70))
    _, k, v = case.qkv(torch.bfloat16)
    layout = case.layout()
    (kernel,) = offline(capability, tail_means, k, v, 128, layout.kv_lengths, layout.kv_order)
    assert kernel.spills == 0


def test_orders_compile_almost_without_spills(base_case, offline):
    case = base_case.with_(dim=128, block=(128, 64), order="heads")
    for kernel in compiled(offline, case, torch.bfloat16, 80):
        assert kernel.spills <= 8
