"""Activations that are not finite: what dense attention keeps finite stays so, whatever is chosen."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.layout.layout import BlockLayout
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.ramp import at_progress
from accel.recipe.files import load_recipe, shipped_recipes

GRID = TokenGrid(3, 7, 9, 21)
# The interpreter is chosen when Triton is imported: its cases run in a process of their own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TIERS = ["triton"] if INTERPRETED else ["reference", "torch"]
FILLS = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}


def qkv(where, fill, at=90):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, GRID.tokens, 16, generator=generator) for heads in (4, 2, 2))
    {"q": q, "k": k, "v": v}[where][0, 0, at, 3] = fill
    return q, k, v


def assert_no_worse_than_dense(q, k, v, layout, tier):
    dense = scaled_dot_product_attention(q, k, v, is_causal=layout.causal, enable_gqa=True)
    out = block_sparse_attention(q, k, v, layout, tier=tier)
    kept = dense.isfinite().all(dim=-1)
    assert out.isfinite().all(dim=-1)[kept].all()


@pytest.mark.filterwarnings("ignore:radial")
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe(name, where):
    grid = None if name.startswith("llm-") else GRID
    policy = at_progress(load_recipe(name).rules[0].policy, 0.5)
    for fill in FILLS.values():
        q, k, v = qkv(where, fill)
        layout = policy.layout(q, k, grid, Context(grid=grid))
        assert (layout.kv_num_blocks > 0).all() and layout.density > 0
        for tier in ("reference", "torch"):
            assert_no_worse_than_dense(q, k, v, layout, tier)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_key_that_is_not_finite_spoils_no_query_before_it(tier, fill):
    q, k, v = qkv("k", FILLS[fill], at=70)
    layout = BlockLayout.full(GRID.tokens, GRID.tokens, (64, 64), causal=True)
    assert_no_worse_than_dense(q, k, v, layout, tier)
    out = block_sparse_attention(q, k, v, layout, tier=tier)
    assert out[:, :, :70].isfinite().all()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("tier", TIERS)
def test_padding_that_is_not_finite_is_never_seen(tier, fill):
    q, k, v = qkv("q", 0.0)
    lengths = torch.tensor([150], dtype=torch.int32)
    layout = BlockLayout.full(GRID.tokens, GRID.tokens, (64, 64), kv_lengths=lengths)
    expected = block_sparse_attention(q, k, v, layout, tier=tier)
    k[:, :, 150:] = FILLS[fill]
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout, tier=tier), expected)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("tier", ["reference", "torch"])
def test_a_block_mean_that_is_not_finite_spoils_no_other_block(tier, fill):
    q, k, v = qkv("k", FILLS[fill], at=70)
    keep = torch.eye(-(-GRID.tokens // 32), dtype=torch.bool)[None, None]
    keep[..., 2] = True
    layout = BlockLayout.from_mask(keep, (32, 32), GRID.tokens, GRID.tokens, tail=True)
    q[:, :, :, 3] = q[:, :, :, 3].abs() * (-1 if fill == "inf" else 1)
    out = block_sparse_attention(q, k, v, layout, tier=tier)
    if fill != "nan":
        assert out.isfinite().all()
    assert out[:, 2:].isfinite().all()


@pytest.mark.skipif(INTERPRETED, reason="runs itself")
def test_the_triton_tier_in_the_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", __file__, "-k", "triton-nan"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-3000:]
