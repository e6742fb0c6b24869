"""No policy looks at the values of its tensors: each plans on the meta device, where there are none."""

import pytest
import torch

from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.dense import Dense
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.parts.head_choice import SampledRows
from accel.policies.parts.ordering.content_orders import Clusters, Hashed
from accel.policies.parts.ordering.modalities import Modalities, Strides
from accel.policies.parts.ordering.orders import Cycle, Hilbert, Tile, Windows
from accel.policies.parts.scores import Antidiagonal, Bounds, Pooled, Sampled, Strided, SubBlock
from accel.policies.parts.selectors import TopK, TopP
from accel.policies.per_head import PerHead
from accel.policies.permuted import Permuted
from accel.policies.radial import Radial
from accel.policies.search.stages import Stages

GRID = TokenGrid(3, 9, 21, 17)
ON_A_GRID = {
    "dense": Dense(),
    "radial": Radial(),
    "draft-threshold": Draft(),
    "draft-rows": Draft(select="row_top_k"),
    "permuted": Permuted(),
    "hip-tree": Hip(),
    "hip-stages": Hip(search=Stages()),
    "pooled": Composed(score=Pooled(self_similarity=0.3), select=TopP(0.9), order=Tile((1, 8, 8))),
    "strided": Composed(score=Strided(), select=TopK(0.3, "layer", row_density=0.1)),
    "sub-block": Composed(score=SubBlock(), select=TopK(0.3, "head")),
    "antidiagonal": Composed(score=Antidiagonal(), select=TopP(0.9, 0.1, 0.5)),
    "bounds": Composed(score=Bounds(), select=TopK(0.3)),
    "clusters": Composed(order=Clusters(4, 2), score=Pooled(), select=TopP(0.9, budget="head")),
    "hashed": Composed(order=Hashed(), tail=True),
    "windows": Composed(order=Windows((1, 2, 2), 4)),
    "cycle": Composed(order=Cycle((Hilbert(), Tile((1, 8, 8)))), score=Pooled(), select=TopP(0.9)),
    "per-head": PerHead((Composed(), Composed(order=Hilbert())), SampledRows(8)),
    "sampled": Composed(score=Sampled(), select=TopP(1), tail=True),
}
IN_A_SEQUENCE = {
    name: ON_A_GRID[name]
    for name in ("dense", "hip-tree", "hip-stages", "strided", "antidiagonal", "bounds", "permuted")
}
IN_A_SEQUENCE["modalities"] = Composed(order=Modalities(), score=Antidiagonal(), select=TopK(0.3))
IN_A_SEQUENCE["strides"] = Composed(order=Strides(), score=Antidiagonal(), select=TopK(0.3))


def plan(policy, grid):
    q, k = (torch.empty(2, heads, GRID.tokens, 16, device="meta") for heads in (4, 2))
    vision = torch.empty(2, GRID.tokens, dtype=torch.bool, device="meta")
    return policy.layout(q, k, grid, Context(grid=grid, vision=None if grid else vision))


@pytest.mark.filterwarnings("ignore:radial")
@pytest.mark.parametrize("policy", ON_A_GRID.values(), ids=ON_A_GRID.keys())
def test_planning_on_a_grid_needs_no_values(policy):
    assert plan(policy, GRID).device.type == "meta"


@pytest.mark.parametrize("policy", IN_A_SEQUENCE.values(), ids=IN_A_SEQUENCE.keys())
def test_planning_a_sequence_needs_no_values(policy):
    assert plan(policy, None).device.type == "meta"
