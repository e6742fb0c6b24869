"""Any method with any parameters on any tokens: a layout that serves, or a ValueError that says why not."""

import warnings

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import recipe_strategies as recipes
from accel.kernels.attention.operation import attention_with_lse, block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.ramp import at_progress
from accel.recipe.files import build_recipe, recipe_data
from accel.recipe.recipe import Recipe

# Without shrinking: a failure is told at once, as it was drawn.
PHASES = (Phase.explicit, Phase.generate)
FIXED = settings(derandomize=True, deadline=None, database=None, phases=PHASES)
GRIDS = st.builds(TokenGrid, st.integers(1, 4), st.integers(1, 9), st.integers(1, 11), st.integers(0, 20))
LENGTHS = st.tuples(st.integers(1, 200), st.integers(0, 100))


def tokens(batch, heads, length, dtype, seed, dim=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, heads, length, dim, generator=generator).to(dtype)


@st.composite
def problems(draw):
    policy = at_progress(draw(recipes.policies()), draw(st.sampled_from([0.0, 0.4, 1.0])))
    grid = draw(st.none() | GRIDS)
    q_len, past = (grid.tokens, 0) if grid else draw(LENGTHS)
    kv_heads, group = draw(st.sampled_from([(1, 1), (2, 1), (2, 2)]))
    batch, dtype = draw(st.integers(1, 2)), draw(st.sampled_from([torch.float32, torch.bfloat16]))
    q = tokens(batch, kv_heads * group, q_len, dtype, 1)
    k, v = (tokens(batch, kv_heads, q_len + past, dtype, seed) for seed in (2, 3))
    return policy, grid, q, k, v


def layout_of(policy, grid, q, k):
    """The layout, or none where the method refuses the call by its one clear error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return policy.layout(q, k, grid, Context(grid=grid))
    except ValueError as error:
        told = any(
            word in str(error)
            for word in (
                "sequence",
                "grid",
                "the call has",
                "the model has",
                "this model has",
                "this call has",
                "video tokens",
            )
        )
        assert told, error
        return None


@settings(FIXED, max_examples=80)
@given(problems())
def test_every_row_gets_something_and_the_result_is_the_specifications(problem):
    policy, grid, q, k, v = problem
    layout = layout_of(policy, grid, q, k)
    if layout is None:
        return
    assert (layout.q_len, layout.kv_len) == (q.shape[2], k.shape[2])
    assert layout.block_size == policy.block_size
    assert layout.causal == (grid is None)
    assert (layout.kv_num_blocks > 0).all() and layout.density > 0
    assert layout.density <= 1 or (layout.causal and layout.kv_order is not None)
    out, lse = attention_with_lse(q, k, v, layout, tier="torch")
    assert out.isfinite().all() and lse.isfinite().all()
    exact = block_sparse_attention(q.double(), k.double(), v.double(), layout, tier="reference")
    slack = 3e-2 if q.dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(out.double(), exact, atol=slack, rtol=slack)
    if not layout.causal and layout.density == 1:
        dense = scaled_dot_product_attention(q.double(), k.double(), v.double(), enable_gqa=True)
        torch.testing.assert_close(exact, dense, atol=1e-5, rtol=1e-5)


@settings(FIXED, max_examples=40)
@given(problems(), st.sampled_from([torch.nan, torch.inf, -torch.inf]), st.integers(0, 10**6))
def test_a_query_that_is_not_finite_spoils_itself_alone(problem, fill, place):
    policy, grid, q, k, v = problem
    at = place % q.shape[2]
    q[:, 0, at, place % 16] = fill
    layout = layout_of(policy, grid, q, k)
    if layout is None:
        return
    spoilt = torch.zeros(q.shape[:3], dtype=torch.bool)
    spoilt[:, 0, at] = True
    assert (layout.kv_num_blocks > 0).all()
    assert block_sparse_attention(q, k, v, layout).isfinite().all(dim=-1)[~spoilt].all()


@settings(FIXED, max_examples=60)
@given(recipes.policies(), recipes.schedules(), recipes.reuses())
def test_a_recipe_survives_being_written_down(policy, schedule, reuse):
    rule = {"match": "*", "policy": policy, "schedule": schedule, "reuse": reuse}
    recipe = Recipe(schedule=schedule, reuse=reuse, rules=(rule,))
    assert build_recipe(recipe_data(recipe), "drawn") == recipe
