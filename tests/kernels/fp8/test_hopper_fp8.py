import re

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

from accel.kernels.attention.tiers import cannot_run, cannot_take, checked_tiers
from accel.kernels.fp8 import attention as hopper_fp8
from accel.kernels.fp8 import kernel as hopper_fp8_kernel
from accel.kernels.fp8 import specification as fp8_attention
from accel.kernels.fp8.attention import block_sparse_attention
from kernel_cases import EMULATED


def assert_as_specified(result, q, k, v, layout, out_error=3e-3, lse_error=1e-4):
    """The same e4m3 numbers; the order of sums may differ, and with it a weight halfway between two."""
    specified = fp8_attention.block_sparse_attention(q, k, v, layout)
    (out, lse), (expected, expected_lse) = result, specified
    finite = expected_lse.isfinite()
    assert torch.equal(lse.isfinite(), finite)
    torch.testing.assert_close(lse[finite], expected_lse[finite], rtol=0, atol=lse_error)
    assert (out.double() - expected.double()).norm() <= out_error * expected.double().norm()


# Tensor cores keep 14 bits of the sums of products in eight bits (arXiv 2412.19437), so that logits are off
# by a thousandth and two weights of a hundred round the other way.
ON_GPU = {"out_error": 1.5e-2, "lse_error": 5e-3}


@pytest.fixture
def emulated(emulate):
    """The tier's launcher on a CPU, its kernel run by the emulator."""
    emulate(hopper_fp8, hopper_fp8_kernel)


@pytest.mark.parametrize("columns", [128, 64, 32], ids="keys{}".format)
@pytest.mark.parametrize("changes", EMULATED.values(), ids=EMULATED.keys())
def test_the_kernels_source_computes_what_is_specified_when_emulated(base_case, emulated, changes, columns):
    case = base_case.with_(block=(128, columns), **changes)
    q, k, v = case.qkv(torch.bfloat16)
    layout = case.layout()
    assert_as_specified(block_sparse_attention(q, k, v, layout), q, k, v, layout)


def test_strided_views_and_keys_that_have_much_in_common_when_emulated(base_case, emulated):
    case = base_case.with_(block=(128, 64), dim=128)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in case.qkv(torch.float16))
    k, layout = k + 20 * torch.randn(1, 1, 1, 128).half(), case.layout()
    assert_as_specified(block_sparse_attention(q, k, v, layout), q, k, v, layout)


COMPILED = [
    *((128, torch.bfloat16, columns, causal) for columns in (128, 64, 32) for causal in (False, True)),
    (64, torch.float16, 128, False),
    (64, torch.float16, 32, True),
]


@pytest.mark.parametrize(("dim", "dtype", "columns", "causal"), COMPILED, ids=str)
def test_kernel_compiles_without_spills_and_overlaps(base_case, offline, dim, dtype, columns, causal):
    lengths = (203, 70) if causal else None
    case = base_case.with_(dim=dim, block=(128, columns), causal=causal, kv_lengths=lengths)
    (kernel,) = offline(90, block_sparse_attention, *case.qkv(dtype), case.layout())
    assert kernel.spills == 0
    assert kernel.shared_memory <= 232_448
    assert kernel.registers == 168
    # Two loops, full and masked, of two consumers: all exponentials of a tile lie between the wait for its
    # scores, which leaves the values' products of the tile before in flight, and the wait for those.
    events = re.findall(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)|MUFU\.(EX2)", kernel.disassembly)
    in_flight = 128 // columns
    sequence = "".join("e" if exponential else wait for wait, exponential in events)
    spans = re.findall(f"{in_flight}(e*)0", sequence)
    assert len(spans) == 4
    assert all(len(span) >= 64 for span in spans)
    # Both products are of e4m3 numbers, and weights change neither thread nor register between them: lanes
    # exchange nothing but the maxima and sums of rows, in two steps for each of two rows.
    assert "QGMMA.64x128x32.F32.E4M3.E4M3" in kernel.disassembly and "HGMMA" not in kernel.disassembly
    assert not any(opcode.startswith("PRMT") for opcode in kernel.sass)
    exchanges = sum(opcode.startswith("SHFL.BFLY") for opcode in kernel.sass)
    assert exchanges == 2 * 3 * (2 * 2 + 2 * 2)


REFUSED = {
    "float32": ({}, torch.float32, "does not take torch.float32"),
    "head-dim": ({"dim": 96}, torch.bfloat16, "takes head dims 64 and 128, not 96"),
    "rows": ({"block": (64, 64)}, torch.bfloat16, "takes query blocks of 128, got 64"),
    "columns": ({"block": (128, 16)}, torch.bfloat16, "takes key blocks of 32, 64 and 128, got 16"),
    "order": ({"order": "shared", "causal": True}, torch.bfloat16, "does not join an order"),
}


@pytest.mark.parametrize(("changes", "dtype", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_kernel_lacks_is_an_error(base_case, changes, dtype, message):
    case = base_case.with_(**{"block": (128, 64), **changes})
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*case.qkv(dtype), case.layout())[0]


def test_what_it_lacks_is_known_before_it_is_called(base_case, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert cannot_run("fp8", "cuda", torch.bfloat16, 128) is None and "fp8" not in checked_tiers()
    assert "head dims 64 and 128, not 96" in cannot_run("fp8", "cuda", torch.bfloat16, 96)
    assert "does not take torch.float32" in cannot_run("fp8", "cuda", torch.float32, 64)
    for name in ("rows", "columns", "order"):
        case = base_case.with_(**{"block": (128, 64), **REFUSED[name][0]})
        assert cannot_take("fp8", case.layout()) is not None
    assert cannot_take("fp8", base_case.with_(block=(128, 32), tail=True).layout()) is None


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
)
class TestOnHopper:
    @pytest.mark.parametrize("columns", [128, 64, 32], ids="keys{}".format)
    @pytest.mark.parametrize("dim", [64, 128], ids="fp8-bfloat16-D{}".format)
    @pytest.mark.parametrize(
        "changes", [*EMULATED.values(), {"tail": True, "density": 0.3}], ids=[*EMULATED, "tail"]
    )
    def test_every_case_is_as_specified(self, base_case, changes, dim, columns):
        case = base_case.with_(**{**changes, "block": (128, columns), "dim": dim})
        q, k, v = case.qkv(torch.bfloat16, "cuda")
        layout = case.layout("cuda")
        first, second = (block_sparse_attention(q, k, v, layout) for _ in range(2))
        assert_as_specified(first, q, k, v, layout, **ON_GPU)
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])

    @pytest.mark.parametrize("dim", [64, 128], ids="fp8-float16-D{}".format)
    @pytest.mark.parametrize("tiles", [1, 2, 3, 4, 5, 8, 16], ids="tiles{}".format)
    def test_every_number_of_tiles(self, base_case, tiles, dim):
        case = base_case.with_(q_len=128, kv_len=128 * tiles, dim=dim, block=(128, 128), density=1.0)
        q, k, v = case.qkv(torch.float16, "cuda")
        layout = case.layout("cuda")
        assert_as_specified(block_sparse_attention(q, k, v, layout), q, k, v, layout, **ON_GPU)

    def test_keys_that_are_not_listed_may_be_anything(self, base_case):
        case = base_case.with_(dim=128, block=(128, 32), kv_len=900, shared_lists=True, density=0.2)
        q, k, v = case.qkv(torch.bfloat16, "cuda")
        layout = case.layout("cuda")
        unlisted = ~layout.to_mask()[0, 0].any(0)
        k[:, :, unlisted], v[:, :, unlisted] = torch.nan, torch.inf
        assert block_sparse_attention(q, k, v, layout)[0].isfinite().all()
