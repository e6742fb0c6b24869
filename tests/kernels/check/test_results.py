"""What a kept result makes of the choice of a tier, on a machine that says it has a Hopper GPU."""

import json
import subprocess
import sys

import pytest
import torch

from accel.kernels import check_results
from accel.kernels.attention.tiers import UNCHECKED, choose_tier
from accel.kernels.check_results import PASSED, check_result, key, results_file
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from fake_hopper import fake_hopper, forget

pytest.importorskip("triton")
CUDA = torch.device("cuda")


@pytest.fixture
def hopper(tmp_path):
    with fake_hopper(tmp_path) as patch:
        yield patch


def kept(found, dtype=torch.bfloat16, dim=128):
    """What an earlier process kept."""
    results_file().parent.mkdir(parents=True, exist_ok=True)
    results_file().write_text(json.dumps({key("hopper", CUDA, dtype, dim): found}))
    forget()


def choice(dtype=torch.bfloat16, dim=128, layout=None):
    return choose_tier("cuda", dtype, dim, layout)


TABLE = {
    "passed": (PASSED, "hopper", "passed its check on this machine"),
    "failed": (
        "failed its check on this machine: plain: out: error",
        "triton",
        "the hopper tier failed its check",
    ),
    "hung": ("did not finish its check within 300 s", "triton", "the hopper tier did not finish its check"),
}


@pytest.mark.parametrize(("found", "name", "reason"), TABLE.values(), ids=TABLE.keys())
def test_the_result_chooses_and_is_the_reason(hopper, found, name, reason):
    kept(found)
    assert choice().name == name and reason in choice().reason


def test_without_a_result_triton_runs_and_says_how_to_get_one(hopper):
    assert choice().name == "triton" and UNCHECKED in choice().reason
    assert "accel doctor --check" in choice().reason


def test_a_result_is_about_one_type_and_head_dim(hopper):
    kept(PASSED)
    assert [choice().name, choice(dim=64).name, choice(torch.float16).name] == ["hopper", "triton", "triton"]


CHANGES = {
    "gpu": lambda patch: patch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe"),
    "torch": lambda patch: patch.setattr(torch, "__version__", "2.99"),
    "driver": lambda patch: patch.setattr(check_results, "_driver", lambda: "NVRM version: 999.1"),
    "sources": lambda patch: patch.setattr(check_results, "_sources", lambda: "0123"),
    "triton": lambda patch: patch.setattr("triton.__version__", "99.0"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_result_is_about_one_machine(hopper, change):
    kept(PASSED)
    assert choice().name == "hopper"
    change(hopper)
    forget()
    assert choice().name == "triton"


def layouts():
    order = TokenOrder(torch.arange(300))
    return {
        "any": (BlockLayout.full(300, 300, (128, 64)), "hopper", "passed"),
        "causal": (BlockLayout.full(300, 300, (128, 64), causal=True), "hopper", "passed"),
        "window": (
            BlockLayout.full(300, 300, (128, 64), causal=True, window=50),
            "hopper",
            "passed",
        ),
        "rows": (BlockLayout.full(300, 300, (64, 64)), "triton", "takes query blocks of 128, got 64"),
        "joined": (
            BlockLayout.full(300, 300, (128, 64), causal=True, q_order=order, kv_order=order),
            "hopper",
            "passed",
        ),
    }


@pytest.mark.parametrize(("layout", "name", "reason"), layouts().values(), ids=layouts().keys())
def test_a_layout_that_the_tier_does_not_take_goes_to_triton(hopper, layout, name, reason):
    kept(PASSED)
    assert choice(layout=layout).name == name and reason in choice(layout=layout).reason


FOREIGN = ["", "[1]", "{broken", '{"a": 3}', "null", "\x00\xff", "[" * 100_000, '"passed"']


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_a_file_that_is_not_ours_says_nothing(hopper, content):
    kept(PASSED)
    results_file().write_text(content, encoding="latin-1")
    forget()
    assert choice().name == "triton" and UNCHECKED in choice().reason


def test_a_folder_in_the_place_of_the_file_says_nothing(hopper):
    results_file().mkdir(parents=True)
    assert UNCHECKED in choice().reason


def test_the_file_is_read_once(hopper):
    kept(PASSED)
    assert choice().name == "hopper"
    results_file().unlink()
    assert choice().name == "hopper" and check_result("hopper", CUDA, torch.float16, 128) is None


def test_importing_and_calling_on_a_cpu_reads_no_file():
    code = (
        "import torch\n"
        "from accel.kernels import check_results\n"
        "check_results.read_file = check_results.results_file = None\n"
        "from accel.kernels.attention.operation import block_sparse_attention\n"
        "from accel.kernels.layout.layout import BlockLayout\n"
        "print(block_sparse_attention(*torch.randn(3, 1, 1, 9, 8), BlockLayout.full(9, 9)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "[1, 1, 9, 8]" in done.stdout, done.stderr
