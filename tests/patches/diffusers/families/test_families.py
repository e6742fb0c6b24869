"""Every family: grid and text are right, padding stays unread, exact, sparse, gone again."""

from statistics import fmean

import torch
from pytest import approx, fixture, mark
from torch._dynamo.testing import CompileCounter

import tiny_families
from accel import accelerate_model, restore_model, summary
from accel.accelerate import patches_of
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.patches.diffusers.family import FAMILIES
from accel.patches.grid import TokenGrid
from accel.policies.parts.grid_blocks import seen_on
from accel.policies.policy import Policy
from accel.policies.radial import Radial
from accel.recipe.recipe import Recipe
from keep_everything import KeepEverything
from tiny_families import CASES, VALID
from traces import traces

RADIAL = {"method": "radial", "decay": 0.3, "block_size": [16, 16]}
LANDSCAPE, PORTRAIT = (3, 8, 9), (2, 11, 5)


def recipe(**policy) -> Recipe:
    return Recipe.model_validate({"rules": [{"match": "*", "policy": policy}]})


def of_image(case, size):
    if not case.image:
        return size
    return 1, *(side + side % 2 if case.even else side for side in size[1:])


@fixture(params=CASES)
def case(request):
    return CASES[request.param]


output = torch.no_grad()(tiny_families.output)


def choose_everywhere(model, policy) -> None:
    accelerate_model(model, recipe(method="dense"))
    for one in patches_of(model)[0].installed:
        one.attention.policy = policy


@mark.parametrize("size", [LANDSCAPE, PORTRAIT], ids=["landscape", "portrait"])
def test_the_grid_is_the_inputs_and_keeping_everything_is_dense(case, size):
    size = of_image(case, size)
    model, arguments = case.model(), case.arguments(size, batch=2)
    expected = output(model, arguments)
    policy = KeepEverything()
    choose_everywhere(model, policy)
    got = output(model, arguments)
    account = summary(model)
    assert not account.dense_reasons and account.sparse_density == 1
    assert len(account.sites) == case.sites and account.calls == case.sites * case.calls
    assert set(policy.grids) == set(case.grids(size))
    torch.testing.assert_close(got, expected, atol=3e-5, rtol=3e-5)


@mark.parametrize("name", [name for name, case in CASES.items() if case.pads])
def test_padding_is_never_attended_to(name):
    case = CASES[name]
    model, arguments = case.model(), case.arguments(LANDSCAPE, batch=2)
    accelerate_model(model, recipe(**RADIAL))
    before = output(model, arguments)
    text = arguments[case.pads].clone()
    text[-1, VALID:] += 100
    assert torch.equal(output(model, {**arguments, case.pads: text}), before)
    text[-1, VALID - 1] += 100
    assert not torch.equal(output(model, {**arguments, case.pads: text}), before)
    assert not summary(model).dense_reasons


class EveryOtherBlock(Policy):
    """Lists a chequerboard: sparse on a single frame too, where methods for video keep everything."""

    method = "chequerboard"
    static = True

    def layout(self, q, k, grid, context):
        blocks = -(-q.shape[2] // 16)
        keep = torch.arange(blocks)[:, None] + torch.arange(blocks)
        return BlockLayout.from_mask((keep % 2 == 0)[None, None], (16, 16), q.shape[2], k.shape[2])


def test_sparse_runs_at_the_planned_density(case):
    size = of_image(case, LANDSCAPE)
    model, arguments = case.model(), case.arguments(size, batch=2)
    policy = EveryOtherBlock() if case.image else Radial(decay=0.3, block_size=(16, 16))
    expected = output(model, arguments)
    choose_everywhere(model, policy)
    got = output(model, arguments)
    account = summary(model)
    grids = case.grids(size)
    work = [16.0**-times for times in case.halvings] if len(case.halvings) > 1 else None
    planned = fmean([planned_density(policy, grid) for grid in grids], work)
    assert not account.dense_reasons and not account.never_called
    assert account.sparse_density == approx(planned) and planned < 1
    assert got.isfinite().all() and not torch.equal(got, expected)


def planned_density(policy, grid: TokenGrid) -> float:
    q = torch.zeros(1, 1, grid.tokens, 16)
    return float(seen_on(grid, policy.layout(q, q, grid, Context(grid))).density)


def test_restore_is_bit_identical_and_leaves_no_trace(case):
    model, arguments = case.model(), case.arguments(of_image(case, LANDSCAPE))
    expected, before = output(model, arguments), traces(model)
    accelerate_model(model, recipe(**RADIAL))
    output(model, arguments)
    restore_model(model)
    assert torch.equal(output(model, arguments), expected)
    assert traces(model) == before


def block_of(model, site: str, repeated: set[str]):
    """The repeated block that a site is in, or the module it belongs to."""
    names = site.split(".")
    around = [model.get_submodule(".".join(names[:end])) for end in range(len(names) - 1, 0, -1)]
    return next((module for module in around if type(module).__name__ in repeated), around[0])


def compiled(model, arguments, sites) -> tuple[CompileCounter, list[torch.Tensor]]:
    """The graphs of a model's blocks, in full graphs, and the outputs of two forwards.

    By diffusers' own regional compilation where that takes in every block with a site, else block by block.
    """
    torch._dynamo.reset()
    graphs = CompileCounter()
    repeated = set(getattr(model, "_repeated_blocks", None) or ())
    blocks = [block_of(model, site, repeated) for site in sites]
    if {type(block).__name__ for block in blocks} <= repeated:
        model.compile_repeated_blocks(fullgraph=True, backend=graphs)
    else:
        for block in blocks:
            block.compile(fullgraph=True, backend=graphs)
    return graphs, [output(model, arguments) for _ in range(2)]


@torch.no_grad()
@mark.parametrize("name", [name for name, case in CASES.items() if case.whole])
def test_blocks_compile_into_as_few_graphs_as_the_stock_models(name):
    case = CASES[name]
    arguments = case.arguments(of_image(case, LANDSCAPE), batch=2)
    model = accelerate_model(case.model(), recipe(**RADIAL))
    expected = output(model, arguments)
    sites = [site.site for site in summary(model).sites]
    graphs, outputs = compiled(model, arguments, sites)
    for got in outputs:
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert summary(model).calls == 3 * case.sites * case.calls
    stock, _ = compiled(case.model(), arguments, sites)
    assert graphs.frame_count == stock.frame_count == case.graphs


def test_every_family_is_tested():
    assert {case.class_name for case in CASES.values()} == set(FAMILIES)
