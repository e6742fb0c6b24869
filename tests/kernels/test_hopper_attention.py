import importlib.util
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton.experimental.gluon")

from accel.kernels import hopper_attention, hopper_kernel, proof
from accel.kernels.hopper_attention import block_sparse_attention
from accel.kernels.layout import BlockLayout

EMULATED = {
    "plain": {},
    "full": {"density": 1.0, "kv_heads": 4},
    "shared-lists": {"shared_lists": True},
    "cross": {"q_len": 130, "kv_len": 333},
    "one-block": {"q_len": 5, "kv_len": 9},
    "long": {"kv_len": 1500, "density": 0.7, "dim": 128},
    "empty-row": {"empty_row": True},
    "causal": {"causal": True, "q_len": 203, "kv_len": 700, "density": 0.8},
    "causal-more-queries": {"causal": True, "q_len": 203, "kv_len": 100},
    "padded": {"kv_lengths": (203, 77)},
    "all-padding": {"kv_lengths": (150, 0)},
    "order-per-head": {"order": "heads"},
}


@pytest.fixture
def emulated(monkeypatch):
    """The tier's launcher on a CPU, its kernel run by the emulator next to this file."""
    path = Path(__file__).with_name("gluon_emulator.py")
    spec = importlib.util.spec_from_file_location("gluon_emulator", path)
    emulator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(emulator)
    kernel = emulator.emulated_kernel(Path(hopper_kernel.__file__))
    monkeypatch.setattr(hopper_attention, "hopper_kernel", kernel)
    monkeypatch.setattr(hopper_attention, "TensorDescriptor", emulator.Descriptor)


@pytest.mark.parametrize("columns", [128, 32], ids="keys{}".format)
@pytest.mark.parametrize("changes", EMULATED.values(), ids=EMULATED.keys())
def test_the_kernels_source_is_as_exact_as_eager_when_emulated(
    base_case, emulated, assert_exact, changes, columns
):
    case = base_case.with_(block=(128, columns), **changes)
    q, k, v = case.qkv(torch.bfloat16)
    layout = case.layout()
    assert_exact(block_sparse_attention(q, k, v, layout, return_lse=True), q, k, v, layout)


def test_the_proof_passes_when_emulated(emulated, monkeypatch):
    """All forms of call but the tail, which is another kernel's."""
    monkeypatch.setattr(proof, "KEY_ROWS", (64,))
    monkeypatch.setattr(proof, "TILES", (2,))
    monkeypatch.delitem(proof.FORMS, "with a tail")
    assert proof.first_failure("hopper", "cpu", torch.bfloat16, 64) is None


def test_strided_views_when_emulated(base_case, emulated, assert_exact):
    case = base_case.with_(block=(128, 64), dim=128)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in case.qkv(torch.float16))
    unaligned = torch.stack([v, v], dim=-1)[..., 0]
    layout = case.layout()
    assert_exact(block_sparse_attention(q, k, unaligned, layout, return_lse=True), q, k, v, layout)


@pytest.mark.parametrize("causal", [False, True], ids=["plain", "causal"])
@pytest.mark.parametrize("columns", [128, 64, 32, 16], ids="keys{}".format)
@pytest.mark.parametrize(("dim", "dtype"), [(64, torch.float16), (128, torch.bfloat16)], ids=["D64", "D128"])
def test_kernel_compiles_without_spills_and_overlaps(base_case, offline, dim, dtype, columns, causal):
    lengths = (203, 70) if causal else None
    case = base_case.with_(dim=dim, block=(128, columns), causal=causal, kv_lengths=lengths)
    (kernel,) = offline(90, block_sparse_attention, *case.qkv(dtype), case.layout())
    assert kernel.spills == 0
    assert kernel.shared_memory <= 232_448
    assert kernel.registers == 168
    # Two loops, full and masked, of two consumers: all exponentials of a tile lie between the wait for its
    # scores and the wait for the values' product of the tile before.
    events = re.findall(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d)|MUFU\.(EX2)", kernel.disassembly)
    spans = re.findall(r"1(e*)0", "".join("e" if exponential else wait for wait, exponential in events))
    assert len(spans) == 4
    assert all(len(span) >= 64 for span in spans)


REFUSED = {
    "float32": ({}, torch.float32, "got torch.float32 and 64"),
    "head-dim": ({"dim": 96}, torch.bfloat16, "got torch.bfloat16 and 96"),
    "rows": ({"block": (64, 64)}, torch.bfloat16, "query blocks of 128, got 64"),
    "order": ({"order": "shared", "causal": True}, torch.bfloat16, "does not join an order"),
}


@pytest.mark.parametrize(("changes", "dtype", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_kernel_lacks_is_an_error(base_case, changes, dtype, message):
    case = base_case.with_(**{"block": (128, 64), **changes})
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*case.qkv(dtype), case.layout())


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU"
)
class TestOnHopper:
    @pytest.mark.parametrize("columns", [128, 64, 32, 16], ids="keys{}".format)
    @pytest.mark.parametrize(
        ("dim", "dtype"), [(64, torch.float16), (128, torch.bfloat16)], ids=["D64", "D128"]
    )
    @pytest.mark.parametrize("changes", EMULATED.values(), ids=EMULATED.keys())
    def test_every_case_is_as_exact_as_eager(self, base_case, assert_exact, changes, dtype, dim, columns):
        case = base_case.with_(**{**changes, "block": (128, columns), "dim": dim})
        q, k, v = case.qkv(dtype, "cuda")
        layout = case.layout("cuda")
        assert_exact(block_sparse_attention(q, k, v, layout, return_lse=True), q, k, v, layout)

    @pytest.mark.parametrize("tiles", [1, 2, 3, 8, 16], ids="tiles{}".format)
    def test_every_number_of_tiles(self, assert_exact, tiles):
        q, k, v = torch.randn(3, 1, 2, 128 * tiles, 128, device="cuda", dtype=torch.bfloat16)
        layout = BlockLayout.full(128 * tiles, 128 * tiles, device="cuda")
        assert_exact(block_sparse_attention(q, k, v, layout, return_lse=True), q, k, v, layout)
