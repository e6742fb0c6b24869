from pathlib import Path

import pytest
import torch

from accel.kernels.attention.tiers import cannot_run, checked_tiers, choose_tier
from kernel_cases import run_cases

CASES = Path(__file__).with_name("int8_cases.py")


def test_cases_in_the_interpreter(interpreter):
    run_cases(CASES, TRITON_INTERPRET="1", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cases_on_the_gpu():
    run_cases(CASES, TRITON_INTERPRET="0")


FORMS = {"plain": {}, "masked": {"causal": True, "order": "heads", "kv_lengths": (203, 70)}}
BLOCKS = [(128, (128, 64)), (64, (64, 64)), (128, (64, 64))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capability", [86, 120], ids="sm_{}".format)
@pytest.mark.parametrize(("dim", "block"), BLOCKS, ids=[f"D{d}-{b[0]}x{b[1]}" for d, b in BLOCKS])
def test_kernels_compile_without_spills(base_case, offline, capability, dim, block, form):
    from accel.kernels.int8.attention import block_sparse_attention

    case = base_case.with_(dim=dim, block=block, **FORMS[form])
    kernels = offline(capability, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    assert [kernel.name for kernel in kernels] == [
        "statistics_kernel",
        "mean_kernel",
        "quantise_kernel",
        "int8_kernel",
    ]
    assert all(kernel.spills == 0 and kernel.shared_memory <= 101_376 for kernel in kernels)
    sass = kernels[-1].sass
    assert any(opcode.startswith("IMMA.16832.S8.S8") for opcode in sass)
    assert any(opcode == "HMMA.16816.F16" for opcode in sass), "sums of a tile are in float16"


def test_it_is_never_chosen_unasked(monkeypatch):
    from accel.kernels.attention import tiers

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(tiers, "check_result", lambda *call: "passed")
    call = "cuda", torch.bfloat16, 128
    assert "int8" not in checked_tiers() and choose_tier(*call).name == "triton"
    assert choose_tier(*call, precision="int8").name == "int8"
    assert choose_tier("cuda", torch.bfloat16, 256, precision="int8").name == "triton"
    monkeypatch.setattr(tiers, "check_result", lambda *call: None)
    assert choose_tier(*call, precision="int8").name == "triton", "not before it has passed its check"


REFUSED = {
    "type": (torch.float32, 64, "does not take torch.float32"),
    "dim": (torch.bfloat16, 96, "takes head dims 64 and 128, not 96"),
}


@pytest.mark.parametrize(("dtype", "dim", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_lacks_is_an_error(base_case, monkeypatch, dtype, dim, reason):
    from accel.kernels.int8.attention import block_sparse_attention

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert reason in cannot_run("int8", "cuda", dtype, dim)
    case = base_case.with_(dim=dim)
    with pytest.raises(ValueError, match=f"the int8 tier {reason}"):
        block_sparse_attention(*case.qkv(dtype), case.layout())[0]
