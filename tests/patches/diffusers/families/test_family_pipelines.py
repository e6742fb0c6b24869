"""Every family through its real pipeline: geometry, guidance, steps, exactness, density, padding, undo."""

from collections import Counter
from statistics import fmean

import torch
from pytest import approx, fixture, mark

from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of, plan_for
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.patches.diffusers.family import FAMILIES
from accel.policies.parts.grid_blocks import seen_on
from accel.policies.policy import Policy
from accel.policies.radial import Radial
from accel.recipe.recipe import Recipe
from pipeline_case import STEPS
from real_pipelines import PIPELINES
from tiny_families import CASES

LANDSCAPE, PORTRAIT = (3, 8, 10), (3, 11, 6)
POOLED = {
    "method": "compose",
    "score": {"kind": "pooled"},
    "select": {"kind": "top_p", "mass": 0.6},
    "block_size": [16, 16],
}


def recipe(**policy) -> Recipe:
    return Recipe.model_validate({"rules": [{"match": "*", "policy": policy}]})


class Noting(Policy):
    """Notes what each call is told, and asks another policy."""

    method = "noting"
    static = True

    def __init__(self, choose):
        self.choose, self.contexts, self.batches = choose, [], set()

    def layout(self, q, k, grid, context):
        self.contexts.append(context)
        self.batches.add(q.shape[0])
        return self.choose(q, k, grid, context)

    @property
    def grids(self) -> Counter:
        return Counter(context.grid for context in self.contexts)


def everything(q, k, grid, context) -> BlockLayout:
    return BlockLayout.full(q.shape[2], k.shape[2], (32, 16), q.device)


def chequerboard(q, k, grid, context) -> BlockLayout:
    blocks = -(-q.shape[2] // 16)
    keep = torch.arange(blocks)[:, None] + torch.arange(blocks)
    return BlockLayout.from_mask((keep % 2 == 0)[None, None], (16, 16), q.shape[2], k.shape[2])


def choosing(pipe, choose) -> Noting:
    policy = Noting(choose)
    accelerate_model(pipe, recipe(method="dense"))
    for patch in patches_of(pipe):
        for one in patch.installed:
            one.attention.policy = policy
    return policy


@fixture(params=PIPELINES)
def case(request):
    return PIPELINES[request.param]


@mark.filterwarnings("ignore:radial")
@mark.parametrize("size", [LANDSCAPE, PORTRAIT], ids=["landscape", "portrait"])
@torch.no_grad()
def test_a_generation(case, size):
    size = (1, *size[1:]) if case.image else size
    pipe = case.pipe()
    expected = case.run(pipe, size)
    check_that_keeping_everything_is_dense(case, size, pipe, expected)
    check_that_sparse_is_as_dense_as_planned(case, size, pipe, expected)
    restore_model(pipe)
    assert torch.equal(case.run(pipe, size), expected)


def check_that_keeping_everything_is_dense(case, size, pipe, expected):
    policy = choosing(pipe, everything)
    got = case.run(pipe, size)
    account = summary(pipe)
    assert not account.dense_reasons and account.sparse_density == 1
    assert account.calls == case.step_calls * STEPS
    assert set(policy.grids) == case.expected(size)
    assert max(policy.batches) == (1 if CASES[case.family].calls == 2 else case.batch)
    assert {context.branch for context in policy.contexts} == set(range(case.forwards))
    check_steps(policy.contexts)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def check_steps(contexts):
    """The two steps of a schedule are told in order, the first as its beginning; caches are written after."""
    progress = list(dict.fromkeys(context.progress for context in contexts))
    assert progress[0] < 0.1 < progress[1] and progress[STEPS:] in ([], [1.0])
    assert {context.step for context in contexts} <= {0, 1, None}


def check_that_sparse_is_as_dense_as_planned(case, size, pipe, expected):
    few = case.image or case.few_frames
    choose = chequerboard if few else Radial(decay=0.3, block_size=(16, 16)).layout
    policy = choosing(pipe, choose)
    got = case.run(pipe, size)
    account = summary(pipe)
    family, grids = CASES[case.family], list(policy.grids)
    works = {family.grid(size).halved(times): 16.0**-times for times in family.halvings}
    weights = [policy.grids[grid] * works.get(grid, 1.0) for grid in grids]
    planned = fmean([density(choose, grid) for grid in grids], weights)
    assert account.sparse_density == approx(planned) and account.sparse_density < 1
    assert not account.dense_reasons and not account.never_called
    assert got.isfinite().all() and not torch.equal(got, expected)


def density(choose, grid) -> float:
    q = torch.zeros(1, 1, grid.tokens, 16)
    layout = choose(q, q, grid, Context(grid))
    return float(seen_on(grid, layout).density)


@mark.parametrize("name", [name for name, case in PIPELINES.items() if case.pads])
@torch.no_grad()
def test_padded_text_changes_neither_the_blocks_nor_the_video(name):
    """By a method that ranks blocks by what q and k hold."""
    case = PIPELINES[name]
    pipe = accelerate_model(case.pipe(), recipe(**POOLED))
    arguments = case.arguments(pipe, LANDSCAPE)
    masked = "prompt_embeds_mask" if "prompt_embeds_mask" in arguments else "prompt_attention_mask"
    text, valid = arguments["prompt_embeds"], arguments[masked].bool()
    got = [case.run(pipe, LANDSCAPE, prompt_embeds=t) for t in (text, text + 100 * ~valid[..., None])]
    assert torch.equal(*got)
    assert not torch.equal(case.run(pipe, LANDSCAPE, prompt_embeds=text + 100 * valid[..., None]), got[0])
    assert not summary(pipe).dense_reasons and summary(pipe).sparse_density < 1


@mark.parametrize("name", [name for name, case in PIPELINES.items() if case.image])
@torch.no_grad()
def test_images_are_left_dense_below_their_tokens_with_that_reason(name):
    """The recipe an image model gets by default: off at 1024 x 1024 pixels, on at 2048 x 2048."""
    case = PIPELINES[name]
    pipe = case.pipe()
    limit = plan_for(pipe).recipe.schedule.min_tokens
    assert 64 * 64 + 512 < limit <= 128 * 128
    accelerate_model(pipe, min_tokens=300, dense_steps=0, dense_layers=0)
    case.run(pipe, (1, 8, 9))
    calls = case.step_calls * STEPS
    assert summary(pipe).dense_reasons == {"shorter than 300 tokens": calls}
    case.run(pipe, (1, 16, 20))
    family = CASES[case.family]
    halved = sum(times > 0 for times in family.halvings) / len(family.halvings)
    account = summary(pipe)
    assert account.dense_reasons == {"shorter than 300 tokens": (1 + halved) * calls}
    assert account.calls == 2 * calls


def test_every_family_has_a_pipeline():
    assert {CASES[case.family].class_name for case in PIPELINES.values()} == set(FAMILIES)
    assert {case.guidance for case in PIPELINES.values()} == {"passes", "batched", "distilled", "none"}
