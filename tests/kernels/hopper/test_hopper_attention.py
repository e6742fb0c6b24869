import re
from importlib.metadata import version

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

import kernel_cases
from accel.kernels.check import forms
from accel.kernels.hopper import attention as hopper_attention
from accel.kernels.hopper import kernel as hopper_kernel
from accel.kernels.hopper.attention import block_sparse_attention
from accel.kernels.layout.layout import BlockLayout

EMULATED = kernel_cases.EMULATED | {
    "window": {"causal": True, "window": 100, "kv_len": 700, "dim": 128},
    "window-padded": {"causal": True, "window": 1, "kv_lengths": (203, 77)},
    "window-order": {"causal": True, "window": 60, "order": "heads", "q_len": 150},
    "order": {"order": "shared", "q_len": 130, "dim": 96},
    "order-causal": {"order": "heads", "causal": True, "density": 0.8},
    "order-causal-more-queries": {"order": "shared", "causal": True, "kv_len": 100, "dim": 40},
    "order-padded": {"order": "shared", "kv_lengths": (100, 203), "dim": 256},
    "order-causal-padded": {"order": "heads", "causal": True, "kv_lengths": (130, 203), "dim": 96},
    "dim-96": {"dim": 96, "kv_len": 700, "density": 0.7},
    "dim-256": {"dim": 256, "kv_len": 700, "density": 0.7, "causal": True},
}


@pytest.fixture
def emulated(emulate):
    """The tier's launcher on a CPU, its kernel run by the emulator."""
    emulate(hopper_attention, hopper_kernel)


@pytest.mark.parametrize("columns", [128, 32], ids="keys{}".format)
@pytest.mark.parametrize("changes", EMULATED.values(), ids=EMULATED.keys())
def test_the_kernels_source_is_as_exact_as_eager_when_emulated(
    base_case, emulated, assert_exact, changes, columns
):
    case = base_case.with_(block=(128, columns), **changes)
    q, k, v = case.qkv(torch.bfloat16)
    layout = case.layout()
    assert_exact(block_sparse_attention(q, k, v, layout), q, k, v, layout)


def test_the_check_passes_when_emulated(emulated, monkeypatch):
    """All forms of call but the tail, which is another kernel's."""
    monkeypatch.setattr(forms, "KEY_ROWS", (64,))
    monkeypatch.setattr(forms, "TILES", (2,))
    monkeypatch.delitem(forms.FORMS, "with a tail")
    assert forms.first_failure("hopper", "cpu", torch.bfloat16, 64) is None


def test_strided_views_when_emulated(base_case, emulated, assert_exact):
    case = base_case.with_(block=(128, 64), dim=128)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in case.qkv(torch.float16))
    unaligned = torch.stack([v, v], dim=-1)[..., 0]
    layout = case.layout()
    assert_exact(block_sparse_attention(q, k, unaligned, layout), q, k, v, layout)


def test_tokens_that_begin_between_16_bytes_are_copied_when_emulated(base_case, emulated, assert_exact):
    """Dense tensors too, which `contiguous` gives back as they are."""
    case = base_case.with_(block=(128, 64), q_len=70)
    q, k, v = case.qkv(torch.bfloat16)
    room = torch.empty(k.numel() + 1, dtype=k.dtype)
    shifted = room[1:].view(k.shape).copy_(k)
    assert shifted.is_contiguous() and shifted.data_ptr() % 16
    layout = case.layout()
    assert_exact(block_sparse_attention(q, shifted, v, layout), q, k, v, layout)


DIMS = {64: torch.float16, 96: torch.bfloat16, 128: torch.bfloat16, 256: torch.float16}
MASKS = {"causal": True, "kv_lengths": (203, 70)}
FORMS = {
    "plain": {},
    "masked": MASKS,
    "window": {"causal": True, "window": 100},
    "order": {"order": "heads"},
    "order-masked": {"order": "heads", **MASKS},
}
# Instructions on local memory under Triton 3.9: ptxas keeps a word over the loops. Under 3.6 there are none.
SPILLS = {
    (96, 128, "order"): 16,
    (128, 128, "order"): 9,
    (256, 16, "order"): 13,
    (256, 16, "order-masked"): 30,
    (256, 32, "order-masked"): 4,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("columns", [128, 64, 32, 16], ids="keys{}".format)
@pytest.mark.parametrize(("dim", "dtype"), DIMS.items(), ids=map("D{}".format, DIMS))
def test_kernel_compiles_without_spills_and_overlaps(base_case, offline, dim, dtype, columns, form):
    case = base_case.with_(dim=dim, block=(128, columns), **FORMS[form])
    (kernel,) = offline(90, block_sparse_attention, *case.qkv(dtype), case.layout())
    spills = SPILLS.get((dim, columns, form), 0)
    assert kernel.spills <= (0 if version("triton").startswith("3.6") else spills)
    assert kernel.shared_memory <= 232_448
    assert kernel.registers == 168
    # Two consumers, and of each two loops, full and masked, or the masked one alone: all exponentials of a
    # tile lie between the wait for its scores and the wait for the values' product of the tile before.
    events = re.findall(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)|MUFU\.(EX2)", kernel.disassembly)
    spans = re.findall(r"1(e*)0", "".join("e" if exponential else wait for wait, exponential in events))
    assert len(spans) == (2 if case.causal and (case.order or case.window) else 4)
    assert all(len(span) >= (32 if dim == 256 else 64) for span in spans)
    # One instruction rounds two weights.
    assert not any(opcode.startswith("PRMT") for opcode in kernel.sass)


REFUSED = {
    "float32": ({}, torch.float32, "does not take torch.float32"),
    "head-dim": ({"dim": 90}, torch.bfloat16, "from 16 to 256 divisible by 8, the nearest being 88, not 90"),
    "rows": ({"block": (64, 64)}, torch.bfloat16, "query blocks of 128, got 64"),
}


@pytest.mark.parametrize(("changes", "dtype", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_kernel_lacks_is_an_error(base_case, changes, dtype, message):
    case = base_case.with_(**{"block": (128, 64), **changes})
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*case.qkv(dtype), case.layout())[0]


ON_GPU = [
    *((128, columns) for columns in (128, 64, 32, 16)),
    (64, 128),
    (64, 32),
    (96, 64),
    (256, 128),
    (256, 16),
]
TAIL = {"tail": True, "order": "heads", "causal": True, "density": 0.3}


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
)
class TestOnHopper:
    @pytest.mark.parametrize(("dim", "columns"), ON_GPU, ids=[f"D{d}-keys{n}" for d, n in ON_GPU])
    @pytest.mark.parametrize("changes", [*EMULATED.values(), TAIL], ids=[*EMULATED.keys(), "tail"])
    def test_every_case_is_as_exact_as_eager(self, base_case, assert_exact, changes, dim, columns):
        case = base_case.with_(**{**changes, "block": (128, columns), "dim": dim})
        q, k, v = case.qkv(DIMS[dim], "cuda")
        layout = case.layout("cuda")
        assert_exact(block_sparse_attention(q, k, v, layout), q, k, v, layout)

    @pytest.mark.parametrize("tiles", [1, 2, 3, 8, 16], ids="tiles{}".format)
    def test_every_number_of_tiles(self, assert_exact, tiles):
        q, k, v = torch.randn(3, 1, 2, 128 * tiles, 128, device="cuda", dtype=torch.bfloat16)
        layout = BlockLayout.full(128 * tiles, 128 * tiles, device="cuda")
        assert_exact(block_sparse_attention(q, k, v, layout), q, k, v, layout)
