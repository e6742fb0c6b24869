"""What a method chooses depends on its call alone: not on a default device or type, or inference mode."""

import sys

import pytest
import torch

from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.dense import Dense
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.parts.ordering.orders import Axes, Tile
from accel.policies.parts.scores import Antidiagonal, Bounds, Pooled, Sampled, Strided, SubBlock
from accel.policies.parts.selectors import TopK, TopP
from accel.policies.parts.window import Window
from accel.policies.permuted import Permuted
from accel.policies.radial import Radial
from accel.policies.search.stages import Stages

GRID = TokenGrid(3, 9, 21, 17)
EVERYWHERE = {
    "dense": Dense(),
    "hip-tree": Hip(),
    "hip-stages": Hip(search=Stages()),
    "strided": Composed(score=Strided(), select=TopK(0.3, "layer", row_density=0.1)),
    "antidiagonal": Composed(score=Antidiagonal(), select=TopP(0.9, 0.1, 0.5)),
    "bounds": Composed(score=Bounds(), select=TopK(0.3)),
    "permuted": Permuted(),
}
ON_A_GRID = EVERYWHERE | {
    "radial": Radial(),
    "draft": Draft(),
    "pooled-tiles": Composed(score=Pooled(self_similarity=0.3), select=TopP(0.9), order=Tile((1, 8, 8))),
    "sub-block-axes": Composed(score=SubBlock(), select=TopK(0.3, "head"), order=Axes("hwf")),
    "sampled": Composed(score=Sampled(), select=TopP(1), tail=True),
    "window": Composed(always={"window": Window((3, 5, 5)), "adjacent": True, "own_frame": True}),
}
CASES = {f"{name}-grid": (policy, GRID) for name, policy in ON_A_GRID.items()}
CASES |= {f"{name}-sequence": (policy, None) for name, policy in EVERYWHERE.items()}
CASES |= {"radial-strict": (Radial(reduction="strict", block_size=(16, 16)), TokenGrid(4, 9, 16))}


def forget_geometry():
    modules = [module for name, module in sys.modules.items() if name.startswith("accel.policies.")]
    for thing in [thing for module in modules for thing in vars(module).values()]:
        if hasattr(thing, "cache_clear"):
            thing.cache_clear()


def chosen(policy, grid):
    forget_geometry()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(
        2, 4, (grid or GRID).tokens, 16, generator=generator, device="cpu", dtype=torch.float32
    )
    layout = policy.layout(tokens, tokens[:, 2:], grid, Context(grid=grid))
    order = None if layout.kv_order is None else layout.kv_order.indices
    return layout.listed, order


class DefaultType:
    """A default type for a while."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __enter__(self):
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error):
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = {
    "default device": lambda: torch.device("meta"),
    "default type float16": lambda: DefaultType(torch.float16),
    "inference mode": torch.inference_mode,
}


@pytest.mark.filterwarnings("ignore:radial")
@pytest.mark.parametrize("surroundings", SURROUNDINGS.values(), ids=SURROUNDINGS.keys())
@pytest.mark.parametrize(("policy", "grid"), CASES.values(), ids=CASES.keys())
def test_the_choice_is_the_same(policy, grid, surroundings):
    expected = chosen(policy, grid)
    with surroundings():
        got = chosen(policy, grid)
    assert torch.equal(got[0], expected[0])
    assert (got[1] is None) == (expected[1] is None)
    assert got[1] is None or torch.equal(got[1], expected[1])
