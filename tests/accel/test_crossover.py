"""The crossover: asked once for each length and machine, remembered, and never in the way of a forward."""

import json
import time

import torch
from pytest import fixture, mark

import tiny_language
from accel import accelerate_model, crossover, summary
from accel.crossover import Shape, cache_file, dense_is_faster, floor_power_of_two, sparse_wins, thinned
from accel.kernels.layout import BlockLayout
from accel.policies.hip import Hip

POLICY = Hip(block_size=(64, 64), sink=64, window=64)


@fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(crossover, "_ANSWERS", {})
    torch.set_num_threads(1)


@fixture
def measured(monkeypatch):
    """Counts measurements; sparse wins from 4096 keys on."""
    shapes = []

    def wins(shape, policy, device, dtype):
        shapes.append(shape)
        return shape.kv_len >= 4096

    monkeypatch.setattr(crossover, "sparse_wins", wins)
    return shapes


def call(q_len, kv_len, heads=2):
    return torch.empty(1, heads, q_len, 8), torch.empty(1, 1, kv_len, 8)


def test_one_measurement_for_all_lengths_between_two_powers_of_two(measured):
    assert dense_is_faster(*call(2048, 2048), POLICY)
    assert dense_is_faster(*call(4000, 4000), POLICY)
    assert not dense_is_faster(*call(5000, 5000), POLICY)
    assert measured == [Shape(2048, 2048, 2, 1, 8), Shape(4096, 4096, 2, 1, 8)]


def test_short_calls_are_dense_without_a_measurement(measured):
    assert dense_is_faster(*call(1023, 1023), POLICY) and not measured


def test_very_long_calls_are_measured_shorter(measured):
    dense_is_faster(*call(300, 1 << 18), POLICY)
    assert measured == [Shape(256, 65536, 2, 1, 8)]


def test_the_next_process_reads_the_file(measured, monkeypatch):
    dense_is_faster(*call(4096, 4096), POLICY)
    monkeypatch.setattr(crossover, "_ANSWERS", {})
    assert not dense_is_faster(*call(4096, 4096), POLICY)
    assert len(measured) == 1 and len(json.loads(cache_file().read_text())) == 1


@mark.parametrize("content", ["", "[1]", "{broken", '{"key": 3}'])
def test_a_broken_file_is_measured_again(measured, content):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert not dense_is_faster(*call(4096, 4096), POLICY)
    assert True not in json.loads(cache_file().read_text()).values()


def test_a_cache_that_cannot_be_written_is_no_error(measured, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert not dense_is_faster(*call(4096, 4096), POLICY)


@mark.parametrize("lengths", [(256, 256), (64, 256)], ids=["prefill", "chunk"])
def test_a_real_measurement_leaves_the_random_state_alone(lengths):
    before = torch.get_rng_state()
    assert sparse_wins(Shape(*lengths, 2, 1, 16), POLICY, torch.device("cpu"), torch.float32) in (True, False)
    assert torch.equal(torch.get_rng_state(), before)


def test_on_the_cpu_one_key_head_stands_for_all():
    assert Shape.of(torch.empty(2, 8, 3000, 16), torch.empty(2, 2, 5000, 16)) == Shape(2048, 4096, 4, 1, 16)


@mark.parametrize("pause, runs", [(0.0, 4), (0.15, 1)], ids=["short", "long"])
def test_long_calls_run_once_and_short_ones_four_times(monkeypatch, pause, runs):
    monkeypatch.setattr(crossover, "LONG", 0.1)
    calls = []
    crossover.seconds(lambda: calls.append(time.sleep(pause)), torch.device("cpu"))
    assert len(calls) == runs


def test_thinned_layouts_have_the_assumed_density():
    layout = thinned(BlockLayout.full(4096, 4096, (64, 64), causal=True))
    assert abs(float(layout.density) - crossover.ASSUMED_DENSITY) < 0.02


@mark.parametrize("number, expected", [(1, 1), (1023, 512), (1024, 1024), (1025, 1024)])
def test_floor_power_of_two(number, expected):
    assert floor_power_of_two(number) == expected


@mark.parametrize("chosen, reasons", [(None, {"dense is faster at this length on this machine": 2}), (0, {})])
@torch.no_grad()
def test_a_length_of_the_users_own_overrides_the_measurement(measured, chosen, reasons):
    changes = {} if chosen is None else {"min_tokens": chosen}
    model = accelerate_model(tiny_language.llama(), "llm-permuted", **changes)
    model(tiny_language.tokens(300))
    assert summary(model).dense_reasons == reasons and not measured
