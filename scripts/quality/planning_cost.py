"""What choosing the blocks costs: multiply-adds of a policy's scores as a share of those of QKᵀ."""

from __future__ import annotations

import math

from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.parts.ramp import fixed
from accel.policies.parts.scores import Antidiagonal, Exact, Pooled, Sampled, Score, Strided, SubBlock
from accel.policies.permuted import Permuted
from accel.policies.policy import Policy
from accel.policies.search.tree import Tree


def planning_cost(policy: Policy, grid: TokenGrid) -> float:
    """The cost for self-attention over `grid`; 0 for static or random policies.

    Raises:
        TypeError: for a policy or a search that is not counted here.
    """
    if isinstance(policy, Composed):
        return score_cost(policy.score, policy.block_size) if policy.score else 0.0
    if isinstance(policy, Permuted):
        return policy.probes / grid.tokens + score_cost(policy.score, policy.block_size)
    if isinstance(policy, Draft):
        regions = grid.frames * math.prod(
            math.ceil(length / side)
            for length, side in zip((grid.height, grid.width), policy.region, strict=True)
        )
        return (regions / grid.tokens) ** 2
    if isinstance(policy, Hip):
        return tree_cost(policy, grid)
    if policy.static or policy.method == "random":
        return 0.0
    raise TypeError(f"no cost is known for {policy}")


def score_cost(score: Score, block_size: tuple[int, int]) -> float:
    match score:
        case Pooled():
            return 1 / math.prod(block_size)
        case Strided() | SubBlock():
            return 1 / (score.query * score.key)
        case Antidiagonal():
            return 1 / score.stride
        case Sampled():
            return score.per_block**2 / math.prod(block_size)
        case Exact():
            return 1.0


def tree_cost(policy: Hip, grid: TokenGrid) -> float:
    """Each level looks at two halves for every block that is kept."""
    if not isinstance(policy.search, Tree):
        raise TypeError(f"no cost is known for {policy.search}")
    rows, columns = policy.block_size
    blocks = math.ceil(grid.tokens / columns)
    budget = max(1, round(fixed(policy.density) * blocks))
    levels = math.ceil(math.log2(max(blocks / budget, 1)))
    queries, keys = (
        math.ceil(rows / policy.search.query_stride),
        math.ceil(columns / policy.search.key_stride),
    )
    return levels * queries * 2 * budget * keys / (rows * grid.tokens)
