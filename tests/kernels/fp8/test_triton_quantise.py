"""The Triton kernels that quantise: in the interpreter or on a GPU, and compiled offline."""

from pathlib import Path

import pytest
import torch

from kernel_cases import run_cases

CASES = Path(__file__).with_name("triton_quantise_cases.py")


def test_cases_in_the_interpreter(interpreter):
    run_cases(CASES, TRITON_INTERPRET="1", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9), reason="needs e4m3"
)
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET="0")


@pytest.mark.parametrize("dim", [64, 128], ids="D{}".format)
def test_they_compile_without_spills(offline, base_case, dim):
    from accel.kernels.fp8.quantise import operands

    q, k, v = base_case.with_(dim=dim).qkv(torch.bfloat16)
    kernels = offline(90, operands, q, k, v, 128, 0.1)
    names = ["statistics_kernel", "queries_kernel", "keys_values_kernel"]
    assert [kernel.name for kernel in kernels] == names
    assert all(kernel.spills == 0 for kernel in kernels)
