"""Dense trajectories, forced errors and playback: exact where nothing is dropped, undone whatever happens."""

import torch
from pytest import approx, raises

from accel import accelerate_model, restore_model
from accel.tuning.playback import Playback
from accel.tuning.trajectory import Trajectory, forced_errors, record, step_budget
from tiny_wan_pipeline import keep_every_block, latents, recipe, wan_pipeline

STEPS = 4


def run(pipe):
    return lambda: latents(pipe, steps=STEPS)


def test_the_forced_error_is_that_of_each_step_alone():
    pipe = wan_pipeline()
    dense = record(pipe, run(pipe))
    assert len(dense.velocities) == STEPS
    assert torch.equal(dense.latents, latents(pipe, steps=STEPS))
    assert forced_errors(pipe, run(pipe), dense) == (0,) * STEPS
    keep_every_block(pipe)
    assert max(forced_errors(pipe, run(pipe), dense)) < 1e-4
    accelerate_model(pipe, recipe(schedule={"dense_steps": 0.5}))
    errors = forced_errors(pipe, run(pipe), dense)
    assert max(errors[:2]) == 0 and min(errors[2:]) > 1e-3
    # The first two steps were dense: a forced run is at the dense run's own latents all the same.
    accelerate_model(pipe, recipe())
    assert forced_errors(pipe, run(pipe), dense)[2:] == approx(errors[2:], rel=1e-4)


def test_the_scheduler_is_its_own_again():
    pipe = wan_pipeline()
    dense = record(pipe, run(pipe))
    assert "step" not in vars(pipe.scheduler)
    with raises(ValueError, match="4 steps, this one more"):
        forced_errors(pipe, lambda: latents(pipe, steps=6), dense)
    with raises(ValueError, match="5 steps, this one 4"):
        forced_errors(pipe, run(pipe), Trajectory((*dense.velocities, dense.latents), dense.latents))
    assert "step" not in vars(pipe.scheduler)


def test_played_back_forwards_are_the_dense_ones():
    pipe, playback = wan_pipeline(), Playback()
    with playback.recording(pipe.transformer, 4):
        dense = latents(pipe, steps=STEPS)
    called = []
    pipe.transformer.blocks[0].register_forward_hook(lambda *args: called.append(1))
    with playback.playing(pipe.transformer, 4):
        assert torch.equal(latents(pipe, steps=STEPS), dense)
    assert playback.played == 3 and len(called) == 2 * STEPS - 3
    assert "forward" not in vars(pipe.transformer)
    accelerate_model(pipe, recipe(schedule={"dense_steps": 0.5}))
    alone = latents(pipe, steps=STEPS)
    with playback.playing(pipe.transformer, 4):
        assert torch.equal(latents(pipe, steps=STEPS), alone)
    restore_model(pipe)
    assert torch.equal(latents(pipe, steps=STEPS), dense)


def test_a_step_gets_as_much_as_its_velocity_moves():
    # Two courses of five steps; they move by 2, 0, 4 and 1, and by 0, 2, 2 and 1: 1, 1, 3 and 1 on average.
    courses = [
        Trajectory(tuple(torch.full((2, 3), float(at)) for at in places), torch.zeros(1))
        for places in ((0, 2, 2, -2, -1), (1, 1, 3, 5, 4))
    ]
    by_step = step_budget(courses, 0.3, dense_steps=2)
    assert by_step.ramp == ((0.4, approx(0.18)), (0.6, approx(0.54)), (0.8, approx(0.18)))
    assert by_step.at(0.6) == approx(0.54)
    assert [share for _, share in step_budget(courses, 0.3).ramp] == approx([0.2, 0.2, 0.6, 0.2])
    assert max(share for _, share in step_budget(courses, 0.9).ramp) == 1.0
    with raises(ValueError, match="two steps after the first 4"):
        step_budget(courses, 0.3, dense_steps=4)
