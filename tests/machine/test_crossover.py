"""The crossover: asked once for each length and machine, remembered, compared with the density a call has."""

import json
import time

import torch
from pytest import approx, fixture, mark
from transformers import DynamicCache

import tiny_language
from accel import accelerate_model, summary
from accel.accelerate import patches_of
from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.layout.layout import BlockLayout
from accel.machine import crossover, measurements
from accel.machine.crossover import (
    MARGIN,
    Shape,
    at_density,
    break_even,
    decode_pays,
    floor_power_of_two,
    measure_break_even,
    measure_decode,
)
from accel.machine.measurements import cache_file, measured_once
from accel.policies.decode.stages import Decode
from accel.policies.hip import Hip
from accel.policies.permuted import Permuted
from accel.recipe.recipe import Recipe
from accel.sites.sequence import pays_off
from accel.sites.sequence.pays_off import DENSE_FOR, SLOWER, PaysOff

DECODE = Decode(sink=64, window=64, budget=32, chunks=(32, 16), keep=(64,), refresh=(4, 2))
POLICY = Hip(block_size=(64, 64), sink=64, window=64, decode=DECODE)
CPU = torch.device("cpu")


@fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measurements, "_KNOWN", {})
    torch.set_num_threads(1)


@fixture
def measured(monkeypatch):
    """Counts measurements; sparse wins from 4096 keys on, up to a density of a half."""
    shapes = []

    def measure(shape, policy, device, dtype):
        shapes.append(shape)
        return 0.5 if shape.kv_len >= 4096 else 0.0

    monkeypatch.setattr(crossover, "measure_break_even", measure)
    return shapes


def call(q_len, kv_len, heads=2):
    return torch.empty(1, heads, q_len, 8), torch.empty(1, 1, kv_len, 8)


def test_one_measurement_for_all_lengths_between_two_powers_of_two(measured):
    assert [break_even(*call(n, n), POLICY) for n in (2048, 4000, 5000)] == [0, 0, 0.5]
    assert measured == [Shape(2048, 2048, 2, 1, 8), Shape(4096, 4096, 2, 1, 8)]


def test_short_calls_are_dense_without_a_measurement(measured):
    assert break_even(*call(1023, 1023), POLICY) == 0 and not measured
    assert not decode_pays(*call(1, 1023), DECODE)


def test_very_long_calls_are_measured_shorter(measured):
    break_even(*call(300, 1 << 18), POLICY)
    assert measured == [Shape(256, crossover.LONGEST_ON_CPU, 2, 1, 8)]


def test_another_policy_is_measured_anew(measured):
    break_even(*call(2048, 2048), POLICY)
    break_even(*call(2048, 2048), Permuted())
    assert len(measured) == 2


def test_the_next_process_reads_the_file(measured, monkeypatch):
    break_even(*call(4096, 4096), POLICY)
    monkeypatch.setattr(measurements, "_KNOWN", {})
    assert break_even(*call(4096, 4096), POLICY) == 0.5
    assert len(measured) == 1 and list(json.loads(cache_file().read_text()).values()) == [0.5]


@mark.parametrize("content", ["", "[1]", "{broken", '{"key": 3}', '{"key": true}'])
def test_a_broken_file_or_one_of_old_answers_is_measured_again(measured, content):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert break_even(*call(4096, 4096), POLICY) == 0.5
    assert list(json.loads(cache_file().read_text()).values()) == [0.5]


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert [measured_once("a", lambda: 0.25), measured_once("a", lambda: 0.75)] == [0.25, 0.25]


def clock(*seconds):
    """A timer that runs what it times once and says what it is told to."""
    left = list(seconds)

    def timer(function, device):
        function()
        return left.pop(0)

    return timer


TIMES = {
    "linear": ((10, 1, 2, 5), 0.1 + (MARGIN * 10 - 1 - 2) / 10),
    "always": ((10, 0, 0.1, 0.2), 1.0),
    "planning-alone-is-slower": ((10, 12, 1, 2), 0.0),
    "never": ((1, 0.5, 2, 5), 0.0),
    "flat-and-fast": ((10, 1, 2, 2), 1.0),
    "flat-and-slow": ((10, 1, 9, 9), 0.0),
}


@mark.parametrize(("seconds", "expected"), TIMES.values(), ids=TIMES.keys())
@mark.parametrize("policy", [POLICY, Permuted(segment=32, block_size=(32, 32))], ids=["hip", "permuted"])
def test_the_break_even_density_follows_from_four_times(seconds, expected, policy):
    shape = Shape(256, 256, 2, 1, 16)
    got = measure_break_even(shape, policy, CPU, torch.float32, clock(*seconds))
    assert got == approx(min(max(expected, 0), 1))


def test_decoding_is_timed_over_all_the_tokens_that_a_search_serves(monkeypatch):
    shape = Shape(1, 512, 2, 1, 16)
    assert measure_decode(shape, DECODE, CPU, torch.float32, clock(3, 4)) == 0.75
    for ratio, pays in ((0.75, True), (0.99, False), (2.0, False)):
        monkeypatch.setattr(crossover, "measure_decode", lambda *_, ratio=ratio: ratio)
        monkeypatch.setattr(measurements, "_KNOWN", {})
        cache_file().unlink(missing_ok=True)
        assert decode_pays(*call(1, 2048), DECODE) is pays


@mark.parametrize("lengths", [(256, 256), (64, 256)], ids=["prefill", "chunk"])
def test_a_real_measurement_leaves_the_random_state_alone(lengths):
    before = torch.get_rng_state()
    assert 0 <= measure_break_even(Shape(*lengths, 2, 1, 16), POLICY, CPU, torch.float32) <= 1
    assert measure_decode(Shape(*lengths, 2, 1, 16), DECODE, CPU, torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_on_the_cpu_one_key_head_stands_for_all():
    assert Shape.of(torch.empty(2, 8, 3000, 16), torch.empty(2, 2, 5000, 16)) == Shape(2048, 4096, 4, 1, 16)


@mark.parametrize("pause, runs", [(0.0, 4), (0.15, 1)], ids=["short", "long"])
def test_long_calls_run_once_and_short_ones_four_times(monkeypatch, pause, runs):
    monkeypatch.setattr(crossover, "LONG", 0.1)
    calls = []
    crossover.best_seconds(lambda: calls.append(time.sleep(pause)), CPU)
    assert len(calls) == runs


@mark.parametrize("density", [0.1, 0.4, 1.0])
@mark.parametrize("lengths", [(2000, 2000), (130, 2000)], ids=["prefill", "chunk"])
def test_timed_layouts_have_the_density_they_are_timed_for(lengths, density):
    layout = at_density(BlockLayout.full(*lengths, (64, 32), causal=True), density)
    assert float(layout.density) == approx(density, abs=0.03)
    for row, count in zip(layout.kv_indices[0, 0], layout.kv_num_blocks[0, 0], strict=True):
        listed = row[:count].tolist()
        assert listed == sorted(set(listed)) and len(listed) == count
    q, k = torch.randn(1, 2, lengths[0], 16), torch.randn(1, 1, lengths[1], 16)
    assert block_sparse_attention(q, k, k, layout).isfinite().all()


@mark.parametrize("number, expected", [(1, 1), (1023, 512), (1024, 1024), (1025, 1024)])
def test_floor_power_of_two(number, expected):
    assert floor_power_of_two(number) == expected


def recipe(density, **schedule):
    policy = {"method": "hip", "density": density, "sink": 16, "window": 16, "block_size": [16, 16]}
    return Recipe.model_validate({"schedule": schedule, "rules": [{"match": "*", "policy": policy}]})


@mark.parametrize(
    ("density", "limit", "reasons"),
    [(0.1, 0.5, {}), (0.9, 0.5, {SLOWER: 2}), (0.1, 0.0, {SLOWER: 2}), (0.4, 1.0, {})],
    ids=["sparse", "too-dense", "never", "always"],
)
@torch.no_grad()
def test_the_density_a_call_really_has_decides(monkeypatch, density, limit, reasons):
    monkeypatch.setattr(pays_off, "break_even", lambda *call: limit)
    model = accelerate_model(tiny_language.llama(), recipe(density))
    model(tiny_language.tokens(300))
    assert summary(model).dense_reasons == reasons


@torch.no_grad()
def test_a_request_that_was_too_dense_plans_again_after_a_while(monkeypatch):
    """Parts of one prompt, each after a cache: another request's density says nothing of it."""
    monkeypatch.setattr(pays_off, "break_even", lambda *call: 0.5)
    model = accelerate_model(tiny_language.llama(num_hidden_layers=1), recipe(0.9))
    plans = []
    layout = Hip.layout
    monkeypatch.setattr(Hip, "layout", lambda *call: plans.append(1) or layout(*call))
    for requests in 1, 2:
        cache = DynamicCache(config=model.config)
        for _ in range(2 * DENSE_FOR):
            model(tiny_language.tokens(130), past_key_values=cache)
            cache.crop(-130)
        assert len(plans) == 2 * requests
    assert summary(model).dense_reasons == {SLOWER: 4 * DENSE_FOR}


def test_lengths_are_judged_apart():
    judge = PaysOff()
    q, k = torch.zeros(1, 1, 100, 16), torch.zeros(1, 1, 100, 16)
    full = BlockLayout.full(100, 100, (16, 16), causal=True)
    assert judge.pays(q, k, full.density, 1.5) and not judge.pays(q, k, full.density, 0.5)


@mark.parametrize("chosen, reasons", [(None, {SLOWER: 2}), (0, {})])
@torch.no_grad()
def test_a_length_of_the_users_own_overrides_the_measurement(measured, chosen, reasons):
    changes = {} if chosen is None else {"min_tokens": chosen}
    model = accelerate_model(tiny_language.llama(), "llm-permuted", **changes)
    model(tiny_language.tokens(300))
    assert summary(model).dense_reasons == reasons and not measured
    assert len(patches_of(model)) == 1
