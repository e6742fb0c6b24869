"""What is timed, with a timer that makes numbers up, and which tiers and configurations are chosen then."""

import math

import pytest
import torch
from triton.runtime.errors import OutOfResources

from accel.kernels.attention import tiers
from accel.kernels.attention.configurations import candidates, ladder
from accel.kernels.attention.tier import Tier
from accel.kernels.attention.tiers import choose_tier
from accel.kernels.check import timing
from accel.kernels.check_results import PASSED
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.timings import BLOCKS, Call, known, trying, with_fastest_first
from fake_hopper import fake_hopper

CUDA, HALF = torch.device("cuda"), torch.bfloat16
H200 = ("cuda", "90")


@pytest.fixture
def hopper(tmp_path):
    with fake_hopper(tmp_path) as patch:
        yield patch


@pytest.fixture
def kernels(hopper):
    """Kernels that do nothing: the last candidate is wrong, and the second does not fit."""
    usual = candidates(H200, 128, 64, 128, 2)

    def tried_now():
        return with_fastest_first("triton", Call(CUDA, HALF, 128, (128, 64)), usual, usual)[0]

    def attend(q, k, v, layout):
        if tried_now() == usual[1]:
            raise OutOfResources(2, 1, "shared memory")

    hopper.setattr(timing, "target", lambda: H200)
    hopper.setattr(Tier, "load", lambda tier: attend)
    hopper.setattr(timing, "timed_call", lambda call: torch.zeros(4))
    hopper.setattr(timing, "_checks", lambda call: iter(torch.zeros(1, 4)))
    hopper.setattr(timing, "wrong", lambda *call: "out" if tried_now() == usual[-1] else None)
    return usual


def test_all_is_infinite_until_it_is_timed(kernels):
    taken = iter(range(100, 0, -1))
    found = list(timing.timings(["hopper", "triton"], CUDA, HALF, 128, lambda run: float(next(taken))))
    names = {name for name, _ in found}
    first, rest = dict(found[: len(names)]), found[len(names) :]
    assert set(first) == names and set(first.values()) == {math.inf}
    times = dict(found)
    call = Call(CUDA, HALF, 128, (128, 64))
    assert times[call.key("triton", kernels[1])] == times[call.key("triton", kernels[-1])] == math.inf
    assert (
        times[call.key("triton")] == min(times[call.key("triton", config)] for config in kernels) < math.inf
    )
    assert times[call._replace(block=(64, 64)).key("hopper")] == math.inf, "it takes blocks of 128 queries"
    assert {name.split(" | ")[0] for name, _ in rest} >= {f"triton in blocks of {m} x {n}" for m, n in BLOCKS}


def test_a_full_gpu_is_no_time(kernels):
    def full(run):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(timing.timings(["triton"], CUDA, HALF, 128, full))


def test_the_fastest_comes_before_the_ladder(hopper):
    call, rungs = Call(CUDA, HALF, 128, (128, 64)), ladder(H200, 128, 64, 128, 2)
    some = candidates(H200, 128, 64, 128, 2)
    assert some[0] == rungs[0] and with_fastest_first("triton", call, some, rungs) == rungs
    known().update({call.key("triton", config): 3.0 - i for i, config in enumerate(some[:3])})
    assert with_fastest_first("triton", call, some, rungs) == [some[2], *rungs]
    assert with_fastest_first("int8", call, some, rungs) == rungs
    known().update({call.key("triton", config): math.inf for config in some})
    assert with_fastest_first("triton", call, some, rungs) == rungs
    with trying(some[1]):
        assert with_fastest_first("triton", call, some, rungs) == [some[1]]


def times(block=(128, 64), **seconds):
    known().update({Call(CUDA, HALF, 128, block).key(name): taken for name, taken in seconds.items()})


@pytest.fixture
def passed(hopper):
    """Every tier has passed its check."""
    hopper.setattr(tiers, "check_result", lambda *call: PASSED)
    hopper.setattr("accel.kernels.cudnn.tier._not_installed", lambda: None)


def test_the_order_of_tiers_is_that_of_their_times(passed):
    call = CUDA, HALF, 128
    assert choose_tier(*call).name == "hopper"
    times(hopper=2.0, cudnn=1.0)
    assert choose_tier(*call).name == "hopper", "one of them has not been timed"
    times(triton=3.0)
    assert choose_tier(*call).name == "cudnn"
    causal = BlockLayout.full(300, 300, (128, 64), causal=True)
    assert choose_tier(*call, causal).name == "hopper", "cuDNN does not take causality"
    times(triton=0.5)
    choice = choose_tier(*call)
    assert choice.name == "triton" and "the hopper tier was slower here" in choice.reason


def test_int8_needs_to_be_asked_for_however_fast_it_is(passed):
    times(hopper=2.0, cudnn=1.0, triton=3.0, int8=0.1)
    assert choose_tier(CUDA, HALF, 128).name == "cudnn"
    assert choose_tier(CUDA, HALF, 128, precision="int8").name == "int8"
    times(int8=1.5)
    assert choose_tier(CUDA, HALF, 128, precision="int8").name == "cudnn", "it is allowed, not demanded"


def test_each_size_of_blocks_has_its_order(passed):
    times(hopper=2.0, cudnn=1.0, triton=3.0)
    times((128, 128), hopper=1.0, cudnn=2.0, triton=3.0)
    times((64, 64), hopper=math.inf, cudnn=3.0, triton=2.0)
    chosen = {
        block: choose_tier(CUDA, HALF, 128, BlockLayout.full(300, 300, block)).name
        for block in (*BLOCKS, (128, 32))
    }
    assert chosen == {(128, 128): "hopper", (128, 64): "cudnn", (64, 64): "triton", (128, 32): "hopper"}


CARDS = [(89, 128, (128, 64)), (120, 64, (128, 64)), (90, 128, (64, 64)), ("gfx942", 128, (128, 64))]


@pytest.mark.parametrize(
    ("card", "dim", "block"), CARDS, ids=["sm_89", "sm_120-D64", "sm_90-64x64", "gfx942"]
)
def test_candidates_compile_without_spills(base_case, offline, card, dim, block):
    from accel.kernels.attention.triton import block_sparse_attention

    target = ("cuda", str(card)) if isinstance(card, int) else ("hip", card)
    some = candidates(target, *block, dim, 2)
    assert 3 <= len(some) <= 4
    room = {89: 101_376, 120: 101_376, 90: 232_448, "gfx942": 65_536}[card]
    case = base_case.with_(dim=dim, block=block)
    for config in some:
        with trying(config):
            (kernel,) = offline(card, block_sparse_attention, *case.qkv(HALF), case.layout())
        assert kernel.spills == 0 and kernel.shared_memory <= room, config
