"""The schedule: fractions of any number of steps and layers."""

import torch
from pytest import mark

from accel.patches.context import Context
from accel.patches.noise import Noise
from accel.recipe.schedule import Schedule, whole


@mark.parametrize(
    "share, count, expected",
    [(0.2, 50, 10), (0.24, 50, 12), (0.0, 4, 0), (0.01, 4, 1), (1.0, 8, 8), (0.3, 10, 3)],
)
def test_shares_round_up_to_whole_things(share, count, expected):
    assert whole(share, count) == expected


def reasons(schedule, n_steps):
    contexts = [Context(step=step, n_steps=n_steps, progress=step / n_steps) for step in range(n_steps)]
    return [schedule.dense_reason(context, 1000) for context in contexts]


def test_first_steps():
    assert reasons(Schedule(dense_steps=0.25), 8) == ["first steps"] * 2 + [None] * 6


@mark.parametrize("n_steps", [1, 2, 4])
def test_few_step_schedules_keep_at_least_one_dense_step(n_steps):
    assert reasons(Schedule(dense_steps=0.1), n_steps)[0] == "first steps"


def test_nothing_dense_by_default():
    assert reasons(Schedule(), 4) == [None] * 4


def test_progress_alone_serves_where_steps_are_unknown():
    schedule = Schedule(dense_steps=0.25)
    found = [schedule.dense_reason(Context(progress=progress), 1000) for progress in (0.0, 0.24, 0.25, 0.9)]
    assert found == ["first steps", "first steps", None, None]


def test_layers_and_lengths():
    schedule = Schedule(dense_layers=0.03, min_tokens=100)
    assert schedule.dense_reason(Context(layer=0, n_layers=40), 100) == "dense layer"
    assert schedule.dense_reason(Context(layer=1, n_layers=40), 100) == "dense layer"
    assert schedule.dense_reason(Context(layer=2, n_layers=40), 100) is None
    assert schedule.dense_reason(Context(layer=2, n_layers=40), 99) == "shorter than 100 tokens"


def steps_of(schedule, n_steps, reason):
    return [step for step, found in enumerate(reasons(schedule, n_steps)) if found == reason]


def test_refreshes_come_once_in_each_share_of_the_schedule():
    schedule = Schedule(dense_steps=0.25, dense_every=0.2)
    assert steps_of(schedule, 24, "refresh") == [11, 16, 21]
    assert steps_of(schedule, 50, "refresh") == [23, 33, 43]
    assert steps_of(Schedule(dense_steps=0.25, dense_every=0.2), 8, "refresh") == []
    assert steps_of(Schedule(dense_steps=0.1, dense_every=0.2), 10, "refresh") == [6]
    assert steps_of(Schedule(dense_steps=0.25), 24, "refresh") == []


@mark.parametrize("n_steps", [1, 2, 3, 4])
def test_no_refresh_is_the_last_step(n_steps):
    assert n_steps - 1 not in steps_of(Schedule(dense_every=0.01), n_steps, "refresh")


def test_refreshes_need_steps_that_are_counted():
    schedule = Schedule(dense_steps=0.2, dense_every=0.2)
    assert schedule.dense_reason(Context(progress=0.4), 1000) is None


def test_what_precedes_a_sparse_step():
    schedule = Schedule(dense_steps=0.125, dense_every=0.5)
    contexts = [Context(step=step, n_steps=8, progress=step / 8) for step in range(8)]
    assert [schedule.precedes_sparse(context) for context in contexts] == [
        True, True, True, True, True, False, True, False,
    ]  # fmt: skip
    assert Schedule(dense_steps=1.0).precedes_sparse(contexts[3]) is False
    assert Schedule().precedes_sparse(Context(progress=0.5))


def test_shares_of_the_noise():
    # A shift of 12 over eight steps: most of them have little of the noise to take away.
    sigmas = [12 * s / (1 + 11 * s) for s in (1 - step / 8 for step in range(8))]
    noise = Noise(torch.tensor(sigmas) * 1000)
    schedule = Schedule(by="sigma", dense_steps=0.2)
    found = [schedule.dense_reason(Context(None, step, 8, step / 8, noise), 9) for step in range(8)]
    assert [round(1 - sigma, 2) for sigma in sigmas] == [0, 0.01, 0.03, 0.05, 0.08, 0.12, 0.2, 0.37]
    assert found == [*["first steps"] * 6, None, None]
    assert Schedule(by="sigma", dense_steps=0.1).dense_step(Context(None, 5, 8, 5 / 8, noise)) is None
    refreshed = Schedule(by="sigma", dense_steps=0.02, dense_every=0.1)
    assert [s for s in range(8) if refreshed.dense_step(Context(None, s, 8, s / 8, noise)) == "refresh"] == []
    assert Schedule(by="sigma", dense_steps=0.25).dense_step(Context(None, 1, 8, 1 / 8)) == "first steps"


def test_noise_levels_of_lists_and_tensors():
    for timesteps in ([1000, 500.0, 2000], torch.tensor([1000.0, 500.0, 2000.0])):
        noise = Noise(timesteps)
        assert [noise.level(step) for step in range(4)] == [1.0, 0.5, 1.0, 0.0]
