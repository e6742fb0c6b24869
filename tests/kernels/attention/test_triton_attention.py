import re
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
    assert [kernel.name for kernel in kernels] == [
        "block_sparse_kernel",
        "tail_means_kernel",
        "tail_kernel",
    ]
    return kernels


@pytest.mark.parametrize("capability", [80, 90], ids="sm_{}".format)
@pytest.mark.parametrize(("dim", "block"), BLOCKS, ids=[f"D{d}-{b[0]}x{b[1]}" for d, b in BLOCKS])
def test_kernels_compile_without_spills(base_case, offline, capability, dim, block):
    for kernel in compiled(offline, base_case.with_(dim=dim, block=block), torch.bfloat16, capability):
        assert kernel.spills == 0
        assert kernel.shared_memory <= SHARED_MEMORY[capability]
        product = ("HMMA", "HGMMA")[capability == 90]
        assert "means" in kernel.name or any(opcode.startswith(product) for opcode in kernel.sass)


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
@pytest.mark.parametrize("rest", [{"causal": True, "window": 100}, {"chunk": 0}, {"boxes": True}], ids=str)
def test_windows_and_visibilities_compile_without_spills(base_case, offline, capability, rest):
    from accel.kernels.attention.triton import block_sparse_attention

    case = base_case.with_(dim=128, block=(128, 64), **rest)
    (kernel,) = offline(capability, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    assert kernel.spills == 0


@pytest.mark.parametrize("capability", [80, 90], ids="sm_{}".format)
@pytest.mark.parametrize("dim", [128, 256], ids="D{}".format)
def test_means_of_the_tail_compile_without_spills(base_case, offline, dim, capability):
    from accel.kernels.attention.tail_triton import tail_means

    case = base_case.with_(dim=dim, order="heads", kv_lengths=(203, 70))
    _, k, v = case.qkv(torch.bfloat16)
    layout = case.layout()
    (kernel,) = offline(capability, tail_means, k, v, 128, layout.kv_lengths, layout.kv_order)
    assert kernel.spills == 0


def test_orders_compile_almost_without_spills(base_case, offline):
    case = base_case.with_(dim=128, block=(128, 64), order="heads")
    for kernel in compiled(offline, case, torch.bfloat16, 80):
        assert kernel.spills <= 8


ROOM = {"gfx942": 65_536, "gfx950": 163_840}  # bytes of local memory


@pytest.mark.parametrize("architecture", ROOM)
@pytest.mark.parametrize("dim", [128, 72], ids="D{}".format)
def test_kernels_fit_amd_accelerators(base_case, offline, architecture, dim):
    from accel.kernels.attention.triton import block_sparse_attention

    case = base_case.with_(dim=dim, block=(128, 64))
    (kernel,) = offline(architecture, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    assert kernel.shared_memory <= ROOM[architecture] and kernel.spills == 0
    assert "v_mfma_f32" in kernel.asm["amdgcn"]


@pytest.mark.parametrize(
    "changes",
    [{"causal": True}, {"order": "heads"}, {"order": "heads", "causal": True, "kv_lengths": (203, 77)}],
    ids=["causal", "order", "order-masked"],
)
def test_masks_and_orders_have_registers_on_amd_accelerators(base_case, offline, changes):
    from accel.kernels.attention.triton import block_sparse_attention

    case = base_case.with_(dim=128, block=(128, 64), **changes)
    (kernel,) = offline("gfx942", block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    assert kernel.spills <= (2 if case.order and case.causal else 0)
    assert "v_mfma_f32_16x16x16" in kernel.asm["amdgcn"]


def test_four_warps_take_64_queries_on_hopper(base_case, offline):
    """Two groups of four would share the columns of a product, which is then half as wide."""
    from accel.kernels.attention.triton import block_sparse_attention

    case = base_case.with_(dim=128, block=(64, 64))
    (kernel,) = offline(90, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    products = {opcode for opcode in kernel.sass if opcode.startswith("HGMMA")}
    assert products == {"HGMMA.64x64x16.F32.BF16", "HGMMA.64x128x16.F32.BF16"} and kernel.spills == 0


def narrow(kernel):
    """Loads of less than 16 bytes of a half type, in or past the cache."""
    return [opcode for opcode in kernel.sass if re.match(r"LD(G|GSTS)\.E.*U16", opcode)]


@pytest.mark.parametrize("dim", [40, 72, 88, 104, 120], ids="D{}".format)
def test_head_dims_that_8_divides_load_16_bytes_at_once(base_case, offline, dim):
    from accel.kernels.attention.triton import block_sparse_attention

    case = base_case.with_(dim=dim, block=(128, 64), order="heads", tail=True)
    kernels = offline(89, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    assert [kernel.name for kernel in kernels] == ["block_sparse_kernel", "tail_means_kernel", "tail_kernel"]
    for kernel in kernels:
        # At D 40, for which Triton 3.7 takes 128 registers under an order, four instructions.
        assert kernel.spills <= (4 if dim == 40 else 0) and not narrow(kernel), kernel.name
        assert kernel.shared_memory <= 101_376
        assert any(opcode.endswith(".128") and opcode.startswith("LDG") for opcode in kernel.sass)


@pytest.mark.parametrize("dim", [40, 72], ids="D{}".format)
def test_other_kernels_load_16_bytes_at_once_too(base_case, offline, dim):
    from accel.kernels.decode.attention import grouped
    from accel.kernels.decode.triton import attend
    from accel.kernels.layout.triton import move_rows
    from accel.kernels.planning.mass_triton import block_mass

    case = base_case.with_(dim=dim, q_len=1, block=(16, 64), heads=2, kv_heads=2)
    q, k, v = case.qkv(torch.bfloat16)
    kernels = [
        *offline(89, attend, grouped(q, 2), k, v, case.layout(), None, 0.1)[:1],
        *offline(89, move_rows, k, torch.arange(203)),
        *offline(89, block_mass, k, k, torch.zeros(1, 1, 203), (16, 32), 0.1)[:1],
    ]
    assert [kernel.name for kernel in kernels] == ["decode_kernel", "move_rows_kernel", "block_lse_kernel"]
    assert not [kernel.name for kernel in kernels if narrow(kernel) or kernel.spills]


def test_strides_that_8_does_not_divide_are_taken_one_by_one(base_case, offline):
    from accel.kernels.attention.triton import block_sparse_attention

    case = base_case.with_(dim=36, block=(64, 64))
    (kernel,) = offline(89, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    assert narrow(kernel)


def test_a_tail_makes_nothing_of_all_blocks_times_all_blocks(monkeypatch):
    """75,600 tokens have 591 x 1,182 blocks in each of 40 heads."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from accel.kernels.attention import tail_triton
    from accel.kernels.layout.layout import BlockLayout

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and not out._is_view():
                self.numel = max(self.numel, out.numel())
            return out

    monkeypatch.setattr(tail_triton, "launch", lambda *arguments, **options: None)
    monkeypatch.setattr(tail_triton, "target", lambda: ("cuda", "90"))
    heads, length, dim = 4, 75_600, 64
    q = torch.empty(1, heads, length, dim, dtype=torch.bfloat16, device="meta")
    lists = torch.empty(1, heads, 591, 100, dtype=torch.int32, device="meta")
    layout = BlockLayout(lists, lists[..., 0].clone(), (128, 64), length, length, causal=True, tail=True)
    lse = torch.empty(1, heads, length, device="meta")
    with Largest() as largest:
        tail_triton.add_tail(q, q, q, layout, q, lse, 0.1)
    assert largest.numel < heads * 591 * 1182 // 4
