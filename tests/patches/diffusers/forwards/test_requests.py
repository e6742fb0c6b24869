"""Many requests on one transformer, in threads and by turns in one thread: each gets what it gets alone."""

import copy
import threading
import time

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from pytest import fixture, mark, raises

import tiny
from accel import accelerate_model, summary
from accel.patches.diffusers.forwards.forward import OUTSIDE
from accel.patches.hook import hook_of
from tiny_wan_pipeline import latents, recipe, wan_pipeline

RECIPE = recipe(reuse={"steps": 2}, schedule={"dense_steps": 0.25})
SIZES = [(96, 160), (160, 96), (96, 160), (64, 64)]


class Request:
    """A pipeline that can be run step by step."""

    def __init__(self, transformer, number, scheduler=None):
        self.transformer = transformer
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0) if scheduler is None else scheduler
        self.n_steps = 4 + number
        self.generator = torch.Generator().manual_seed(number)
        height, width = SIZES[number % len(SIZES)]
        batch = 1 + number % 2
        self.latents = self.noise(batch, 4, 5, height // 8, width // 8)
        self.texts = [self.noise(batch, 7, 16) for _ in range(2)]

    def noise(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def steps(self):
        """Runs one denoising step, with guidance, for each item."""
        self.scheduler.set_timesteps(self.n_steps)
        for timestep in self.scheduler.timesteps:
            with torch.no_grad():
                self.denoise(timestep, self.scheduler)
            yield

    def denoise(self, timestep, scheduler):
        cond, uncond = (
            self.transformer(self.latents, timestep.expand(len(self.latents)), text, return_dict=False)[0]
            for text in self.texts
        )
        noise = uncond + 3.0 * (cond - uncond)
        self.latents = scheduler.step(noise, timestep, self.latents, return_dict=False)[0]

    def run(self):
        for _ in self.steps():
            pass


def loop(transformer, number, scheduler):
    """A user's own loop, which holds its scheduler in a variable."""
    request = Request(transformer, number, scheduler=NotAScheduler)
    scheduler.set_timesteps(request.n_steps)
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            request.denoise(timestep, scheduler)
        yield request.latents


class NotAScheduler:
    """Something to hold in a scheduler's place."""


def in_threads(*work):
    """Run functions at once, each in a thread of its own; raises what one of them raises."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def by_turns(*generators):
    """Advance generators in turn until all are done."""
    waiting = list(generators)
    while waiting:
        waiting = [generator for generator in waiting if next(generator, waiting) is not waiting]


@fixture
def model():
    """A transformer in which every forward lets the others move on in its middle."""
    model = tiny.wan()
    model.blocks[1].register_forward_pre_hook(lambda *_: time.sleep(0.002))
    return model


def alone(model, count):
    requests = [Request(model, number) for number in range(count)]
    for request in requests:
        request.run()
    return [request.latents for request in requests]


def assert_as_alone(requests, expected):
    for request, latents_alone in zip(requests, expected, strict=True):
        assert torch.equal(request.latents, latents_alone)


@mark.parametrize("together", [in_threads, by_turns], ids=lambda f: f.__name__)
def test_requests_with_schedulers_of_their_own_run_as_alone(model, together):
    accelerate_model(model, RECIPE)
    expected = alone(model, 4)
    once = summary(model)
    requests = [Request(model, number) for number in range(4)]
    together(*(request.run if together is in_threads else request.steps() for request in requests))
    assert_as_alone(requests, expected)
    twice = summary(model)
    assert twice.calls == 2 * once.calls and twice.forwards == 2 * once.forwards
    assert twice.dense_reasons == {reason: 2 * n for reason, n in once.dense_reasons.items()}
    assert 0 < twice.sparse_density < 1 and set(twice.dense_reasons) == {"first steps"}


def test_pipelines_that_share_a_transformer_run_as_alone(model):
    pipes = [wan_pipeline() for _ in range(3)]
    pipes = [WanPipeline(None, None, None, pipe.scheduler, model) for pipe in pipes]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    accelerate_model(pipes[0], RECIPE)
    settings = [{"steps": 4 + n, "height": SIZES[n][0], "width": SIZES[n][1]} for n in range(3)]
    expected = [latents(pipe, **given) for pipe, given in zip(pipes, settings, strict=True)]
    assert set(summary(pipes[0]).dense_reasons) == {"first steps"}
    got = [None] * 3

    def work(n):
        got[n] = latents(pipes[n], **settings[n])

    in_threads(*(lambda n=n: work(n) for n in range(3)))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_two_experts_in_two_threads_run_as_alone():
    first = accelerate_model(wan_pipeline(experts=2), RECIPE)
    scheduler = copy.deepcopy(first.scheduler)
    parts = {**first.components, "scheduler": scheduler}
    second = WanPipeline(**parts, boundary_ratio=0.6)
    second.set_progress_bar_config(disable=True)
    for model in (first.transformer, first.transformer_2):
        model.blocks[1].register_forward_pre_hook(lambda *_: time.sleep(0.002))
    expected = [latents(first, steps=6), latents(second, steps=9, height=160, width=96)]
    got = [None, None]

    def work(n, pipe, **settings):
        got[n] = latents(pipe, **settings)

    in_threads(lambda: work(0, first, steps=6), lambda: work(1, second, steps=9, height=160, width=96))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@mark.parametrize("together", [in_threads, by_turns], ids=lambda f: f.__name__)
def test_loops_of_ones_own_are_counted_by_the_scheduler_they_hold(model, together):
    schedulers = [FlowMatchEulerDiscreteScheduler(shift=3.0) for _ in range(3)]
    accelerate_model(model, RECIPE, scheduler=schedulers[0])
    expected = [list(loop(model, n, scheduler))[-1] for n, scheduler in enumerate(schedulers)]
    counted = summary(model).dense_reasons
    assert set(counted) == {"first steps"}
    got = [[] for _ in schedulers]

    def collect(n):
        for result in loop(model, n, schedulers[n]):
            got[n].append(result)
            yield

    together(*((lambda n=n: list(collect(n))) if together is in_threads else collect(n) for n in range(3)))
    assert all(torch.equal(a[-1], b) for a, b in zip(got, expected, strict=True))
    assert summary(model).dense_reasons == {reason: 2 * n for reason, n in counted.items()}


def forward(model, number, timestep=500.0):
    given = tiny.inputs(model, *[(5, 12, 20), (5, 20, 12), (3, 8, 8)][number])
    with torch.no_grad():
        return model(**{**given, "timestep": torch.tensor([timestep])})[0]


@mark.parametrize("together", [in_threads, by_turns], ids=lambda f: f.__name__)
def test_noise_levels_without_a_scheduler_are_read_for_each_loop(model, together):
    accelerate_model(model, RECIPE)
    levels = [[1000.0, 800.0, 400.0], [1000.0, 990.0, 700.0, 100.0], [900.0, 500.0]]

    def run(n, into):
        for level in levels[n]:
            into.append(forward(model, n, level))
            yield

    expected, got = [[], [], []], [[], [], []]
    for n in range(3):
        list(run(n, expected[n]))
    together(
        *((lambda n=n: list(run(n, got[n]))) if together is in_threads else run(n, got[n]) for n in range(3))
    )
    for mine, its in zip(got, expected, strict=True):
        assert len(mine) == len(its) and all(map(torch.equal, mine, its))


def test_a_forward_inside_a_forward_leaves_the_outer_one_as_it_was():
    model = accelerate_model(tiny.wan(), RECIPE)
    expected = [forward(model, n) for n in range(2)]
    inner = []

    def run_inside(*_):
        handle.remove()
        inner.append(forward(model, 1))

    handle = model.blocks[1].register_forward_pre_hook(run_inside)
    assert torch.equal(forward(model, 0), expected[0]) and torch.equal(inner[0], expected[1])
    assert not summary(model).dense_reasons


@mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_forward_that_was_cut_short_is_over(error):
    model = accelerate_model(tiny.wan(), RECIPE)
    expected = forward(model, 1)

    def fail(*_):
        raise error

    handle = model.blocks[1].register_forward_pre_hook(fail)
    with raises(error):
        forward(model, 0)
    handle.remove()
    assert torch.equal(forward(model, 1), expected)
    assert hook_of(model).forward is None


def test_a_block_called_by_itself_is_outside_any_forward(model):
    accelerate_model(model, RECIPE)
    rotary = model.rope(torch.zeros(1, 4, 5, 12, 20))
    tokens, text, timestep = torch.randn(1, 300, 32), torch.randn(1, 7, 32), torch.randn(1, 6, 32)
    with torch.no_grad():
        model.blocks[0](tokens, text, timestep, rotary)
    assert summary(model).dense_reasons == {OUTSIDE: 1}


def test_layouts_go_with_the_request_that_chose_them(model):
    accelerate_model(model, recipe(reuse={"steps": 50}))
    request = Request(model, 0)
    request.run()
    clock = hook_of(model).clock
    assert len(clock._runs) == 1
    del request
    assert not clock._runs
