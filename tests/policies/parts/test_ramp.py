"""Ramps: values between points, found however deep in a policy."""

import torch
from pydantic import TypeAdapter
from pytest import approx, mark, raises

from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies import find_policy
from accel.policies.parts.ramp import Ramp, at_progress, fixed
from accel.recipe.errors import RecipeError

RAMP = {"ramp": [[0.2, 0.6], [0.6, 0.2], [0.8, 0.4]]}


@mark.parametrize("progress, value", [(0, 0.6), (0.2, 0.6), (0.4, 0.4), (0.6, 0.2), (0.7, 0.3), (1, 0.4)])
def test_values_are_linear_between_points_and_flat_outside(progress, value):
    assert Ramp(**RAMP).at(progress) == approx(value)


@mark.parametrize(
    "points", [[[0, 0.5]], [[0.5, 0.5], [0.5, 0.2]], [[0.9, 0.5], [0.1, 0.2]], [[0, 0], [1, 1]]], ids=str
)
def test_nonsense_is_refused(points):
    with raises(RecipeError):
        Ramp(ramp=points)


def policy(**settings):
    return TypeAdapter(find_policy(settings["method"])).validate_python(settings)


RAMPED = [
    {"method": "draft", "density": RAMP, "region": [2, 4], "block_size": [16, 16]},
    {"method": "hip", "density": RAMP, "block_size": [16, 16]},
    {
        "method": "compose",
        "score": {"kind": "pooled"},
        "select": {"kind": "top_k", "density": RAMP},
        "block_size": [16, 16],
    },
]


@mark.parametrize("settings", RAMPED, ids=lambda settings: settings["method"])
def test_density_follows_progress(settings):
    grid = TokenGrid(4, 8, 16)
    q, k = torch.randn(2, 1, 2, grid.tokens, 16)
    densities = [
        float(
            at_progress(policy(**settings), progress)
            .layout(q, k, grid, Context(grid, progress=progress))
            .density
        )
        for progress in (0.0, 0.4, 0.6)
    ]
    assert densities[0] > densities[1] > densities[2]


def test_top_p_takes_a_ramp():
    ramped = policy(
        method="compose",
        score={"kind": "pooled"},
        select={"kind": "top_p", "mass": RAMP},
        block_size=[16, 16],
    )
    assert at_progress(ramped, 0.6).select.mass == 0.2


def test_without_a_ramp_nothing_changes():
    for plain in (policy(method="draft"), policy(method="hip"), policy(method="radial", decay=0.5)):
        assert at_progress(plain, 0.5) == plain


def test_an_unresolved_ramp_is_an_error():
    with raises(ValueError, match="resolve"):
        fixed(Ramp(**RAMP))
