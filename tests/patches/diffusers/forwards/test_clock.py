"""The clock: steps from a scheduler without reading the device, progress from the noise level without one."""

import copy
import pickle

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from pytest import approx, fixture, mark

from accel.patches.diffusers.forwards.branches import Branches, text_of
from accel.patches.diffusers.forwards.clock import Clock
from accel.patches.diffusers.forwards.run import MOST_PASSES


class Pipeline:
    def __init__(self, scheduler):
        self.scheduler = scheduler


@fixture(params=[UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler])
def scheduler(request):
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    made = request.param(**flow) if request.param is UniPCMultistepScheduler else request.param()
    made.set_timesteps(6)
    return made


def run(clock, scheduler, branches=1):
    latents, ticks = torch.zeros(1, 2), []
    for timestep in scheduler.timesteps:
        ticks += [clock.read(timestep.expand(1)) for _ in range(branches)]
        latents = scheduler.step(torch.zeros(1, 2), timestep, latents, return_dict=False)[0]
    return ticks


def test_scheduler_counts_steps(scheduler):
    ticks = run(Clock(scheduler=scheduler), scheduler)
    assert [(tick.step, tick.n_steps) for tick in ticks] == [(i, 6) for i in range(6)]


def test_separate_guidance_passes_are_branches_of_one_step(scheduler):
    ticks = run(Clock(scheduler=scheduler), scheduler, branches=2)
    assert [(tick.step, tick.branch) for tick in ticks] == [(i // 2, i % 2) for i in range(12)]


COND, UNCOND = torch.zeros(2), torch.zeros(2)


def passes(*steps):
    """The numbers of the passes of each step, told by their texts."""
    branches, told = Branches(), []
    for texts in steps:
        branches.begin_step()
        told.append([branches.number(text) for text in texts])
    return told


def test_a_pass_keeps_its_number_whatever_passes_come_before_it():
    skip_layers = [COND, COND]
    assert passes(skip_layers, [COND, UNCOND, COND], [UNCOND], skip_layers) == [
        [0, 1],
        [0, 2, 1],
        [2],
        [0, 1],
    ]


def test_texts_made_anew_for_every_forward_are_numbered_as_they_come():
    branches, told = Branches(), []
    for _ in range(3):
        branches.begin_step()
        told += [branches.number(torch.zeros(2)) for _ in range(2)]
    assert told == [0, 1, 0, 1, 0, 1]


def test_a_text_changed_midway_is_another_pass():
    assert passes([COND], [COND], [UNCOND], [UNCOND]) == [[0], [0], [1], [1]]


def test_forwards_without_a_text_are_numbered_as_they_come():
    assert passes([None, None], [None, None, None]) == [[0, 1], [0, 1, 2]]


@mark.parametrize(
    "arguments, text",
    [
        ({"encoder_hidden_states": COND}, COND),
        ({"encoder_hidden_states": [UNCOND, COND]}, UNCOND),
        ({"cap_feats": [COND]}, COND),
        ({"cap_feats": []}, None),
        ({}, None),
    ],
    ids=["tensor", "several", "captions", "no captions", "none"],
)
def test_the_text_of_a_forward(arguments, text):
    assert text_of(arguments) is text


def test_a_scheduler_swapped_later_is_seen(scheduler):
    pipe = Pipeline(scheduler)
    clock = Clock(pipe)
    other = FlowMatchEulerDiscreteScheduler()
    other.set_timesteps(3)
    pipe.scheduler = other
    assert clock.read(other.timesteps[:1]).n_steps == 3


def test_a_second_run_starts_again(scheduler):
    clock = Clock(scheduler=scheduler)
    run(clock, scheduler)
    scheduler.set_timesteps(4)
    assert [tick.step for tick in run(clock, scheduler)] == [0, 1, 2, 3]


@mark.parametrize("timestep, progress", [(1000.0, 0.0), (250.0, 0.75), (0.0, 1.0)])
def test_without_scheduler_the_noise_level_tells(timestep, progress):
    tick = Clock().read(torch.tensor([timestep]))
    assert tick.step is None and tick.progress == approx(progress)


def test_a_scheduler_that_does_not_count_falls_back_to_the_noise_level(scheduler):
    assert Clock(scheduler=scheduler).read(torch.tensor([123.0])).step is None


def test_steps_are_counted_where_they_have_no_number():
    clock, levels = Clock(), (1000.0, 1000.0, 600.0, 600.0, 200.0, 1000.0)
    ticks = [clock.read(torch.tensor([level])) for level in levels]
    assert [(tick.generation, tick.turn) for tick in ticks] == [
        (0, 0),
        (0, 0),
        (0, 1),
        (0, 1),
        (0, 2),
        (1, 0),
    ]


def test_more_passes_than_guidance_has_are_generations_of_their_own():
    clock, text = Clock(), torch.zeros(1)
    ticks = [clock.read(torch.tensor([500.0]), text) for _ in range(3 * MOST_PASSES)]
    assert max(tick.branch for tick in ticks) == MOST_PASSES - 1
    assert [tick.generation for tick in ticks[::MOST_PASSES]] == [0, 1, 2]


def test_a_scheduler_outlives_its_pipeline_in_another(scheduler):
    clock = Clock(first := Pipeline(scheduler))
    clock.read(scheduler.timesteps[:1])
    second = Pipeline(first.scheduler)
    del first
    assert [tick.step for tick in run(clock, second.scheduler)] == list(range(6))


def test_a_scheduler_that_is_gone_counts_no_more():
    pipe = Pipeline(FlowMatchEulerDiscreteScheduler())
    clock = Clock(pipe)
    clock.read(torch.tensor([1000.0]))
    assert clock.source == "scheduler"
    del pipe
    clock.read(torch.tensor([1000.0]))
    assert clock.source == "noise level"


def test_copies_and_pickles_know_no_pipeline(scheduler):
    clock = Clock(Pipeline(scheduler))
    for clone in (copy.deepcopy(clock), pickle.loads(pickle.dumps(clock))):
        assert clone.source == "noise level"
