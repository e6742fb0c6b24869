"""Dense trajectories, forced errors and playback: exact where nothing is dropped, undone whatever happens."""

import torch
from pytest import approx, raises

from accel import accelerate_model, restore_model
from accel.tuning.playback import Playback
from accel.tuning.trajectory import Trajectory, forced_errors, record
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
