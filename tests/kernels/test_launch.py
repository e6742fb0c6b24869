"""How kernels are launched: by one function, on one axis, in few variants, in what a device has room for."""

import ast
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
from triton.runtime.errors import OutOfResources

from accel.kernels import launch
from accel.kernels.attention.configurations import ladder

KERNELS = Path(launch.__file__).parent


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_launched_but_by_launch(path):
    """Options that all kernels need, and the axis that has room, are given there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    jitted = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.dump(d) for d in node.decorator_list)
    }
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    by_hand = [
        target.value.id
        for target in called
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name)
    ]
    assert not [name for name in by_hand if name in jitted or name.endswith("_kernel")]
    axes = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "program_id"
    ]
    assert set(axes) <= {0}


def device_with(room):
    """Something that starts a configuration, on a device with `room` bytes of shared memory."""
    tried = []

    def start(config):
        tried.append(config)
        needed = config["BLOCK_N"] * config["num_stages"]
        if needed > room:
            raise OutOfResources(needed, room, "shared memory")

    return start, tried


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch):
    monkeypatch.setattr(launch, "_FITTING", {})


def test_the_first_that_fits_is_taken_and_remembered():
    rungs = ladder(("cuda", "80"), 128, 64, 128, 2)
    start, tried = device_with(room=70)
    launch.launch_fitting("here", rungs, start)
    assert (
        tried == rungs[: len(tried)]
        and len(tried) > 1
        and tried[-1]["BLOCK_N"] * tried[-1]["num_stages"] <= 70
    )
    launch.launch_fitting("here", rungs, start)
    assert tried[-1] == tried[-2], "what did not fit is not tried again"
    launch.launch_fitting("another head dim", rungs, start)
    assert tried.count(rungs[0]) == 2


def test_what_fits_nowhere_is_an_error():
    start, tried = device_with(room=0)
    rungs = ladder(("hip", "gfx942"), 128, 64, 128, 2)
    with pytest.raises(OutOfResources):
        launch.launch_fitting("here", rungs, start)
    assert tried == rungs


def test_other_errors_are_no_reason_to_go_on():
    def start(config):
        raise RuntimeError("an illegal memory access")

    with pytest.raises(RuntimeError, match="illegal"):
        launch.launch_fitting("here", ladder(("cuda", "90"), 128, 64, 128, 2), start)


CARDS = ["80", "89", "90", "120", "gfx942", "gfx1201"]
TARGETS = [("hip" if card.startswith("gfx") else "cuda", card) for card in CARDS] + [("", "")]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("dim", [40, 64, 128, 256])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_every_rung_needs_less_than_the_one_above(target, dim, itemsize):
    for rows in (16, 64, 128):
        for columns in (16, 64, 128):
            rungs = ladder(target, rows, columns, dim, itemsize)
            needs = [config["BLOCK_N"] * config["num_stages"] for config in rungs]
            assert all(lower < upper for upper, lower in pairwise(needs))
            assert all(rows % c["BLOCK_M"] == 0 and columns % c["BLOCK_N"] == 0 for c in rungs)


def variants(offline, calls):
    """How many kernels are compiled for a run of calls, and by which of them the last one is."""
    seen, last = {}, 0
    for number, (function, *arguments) in enumerate(calls):
        for kernel in offline(89, function, *arguments):
            if kernel.cubin not in seen:
                seen[kernel.cubin], last = kernel.name, number
    return seen, last


def test_prompts_of_any_length_share_their_kernels(offline, base_case):
    from accel.kernels.attention.triton import block_sparse_attention

    draw = random.Random(0)

    def prompt():
        length = draw.randint(1, 400)
        case = base_case.with_(batch=1, q_len=length, kv_len=length, causal=True, block=(128, 64), dim=128)
        return block_sparse_attention, *case.qkv(torch.bfloat16), case.layout()

    seen, last = variants(offline, (prompt() for _ in range(60)))
    assert len(seen) == 1 and last == 0, seen


def test_decoding_shares_its_kernels_between_tokens(offline, base_case):
    from accel.kernels.decode.attention import grouped
    from accel.kernels.decode.triton import attend

    def token(length):
        case = base_case.with_(batch=1, q_len=1, kv_len=length, block=(16, 64), dim=128, kv_heads=2, heads=8)
        q, k, v = case.qkv(torch.bfloat16)
        return attend, grouped(q, 2), k, v, case.with_(heads=2).layout(), None, 0.1

    seen, last = variants(offline, (token(length) for length in range(300, 360)))
    assert sorted(seen.values()) == ["decode_kernel", "join_kernel"] and last == 0, seen


def test_planning_shares_its_kernels_between_lengths(offline):
    from accel.kernels.layout.triton import compact_lists, move_rows, work_order
    from accel.kernels.planning.mass_triton import block_mass

    draw = random.Random(1)

    def calls():
        for _ in range(20):
            n = draw.randint(257, 500)
            q, bias = torch.empty(1, 4, n, 128, dtype=torch.bfloat16), torch.zeros(1, 1, n)
            yield block_mass, q, q, bias, (16, 32), 0.1
            yield compact_lists, torch.zeros(1, 2, 3, n, dtype=torch.bool)
            yield work_order, torch.zeros(1, 2, n, dtype=torch.int32)
            yield move_rows, q, torch.arange(n)

    seen, _ = variants(offline, calls())
    assert len(seen) == 5, sorted(seen.values())


def test_products_and_sums_are_fused(offline, base_case, monkeypatch):
    """A score meets scale and maximum in one instruction, whatever the release of Triton does by itself."""
    from accel.kernels.attention.triton import block_sparse_attention

    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    case = base_case.with_(block=(128, 64), dim=128)
    (kernel,) = offline(89, block_sparse_attention, *case.qkv(torch.bfloat16), case.layout())
    # Two loops over tiles of 128 x 64 scores, by 256 threads.
    assert sum(opcode.startswith("FFMA") for opcode in kernel.sass) >= 2 * 128 * 64 // 256
