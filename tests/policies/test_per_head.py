"""PerHead: every head has the candidate its table or its own attention names."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from accel.kernels.attention.reference import block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.head_choice import SampledRows
from accel.policies.per_head import PerHead

GRID = TokenGrid(4, 4, 8, 7)
FRAMES = {"method": "compose", "always": {"own_frame": True}, "block_size": [16, 16]}
PLACES = {
    "method": "compose",
    "order": {"kind": "axes", "axes": "hwf"},
    "always": {"band": 0.2},
    "block_size": [16, 16],
}
DENSE = {"method": "dense", "block_size": [16, 16]}


def build(choose, *candidates):
    return TypeAdapter(PerHead).validate_python(
        {"candidates": candidates or [FRAMES, PLACES, DENSE], "choose": choose}
    )


def table(*parts):
    return {"kind": "table", "parts": [{"until": until, "heads": heads} for until, heads in parts]}


def qkv(heads=4, kv_heads=2, dim=8):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, count, GRID.tokens, dim, generator=generator, dtype=torch.float64)
        for count in (heads, kv_heads, kv_heads)
    ]


def test_each_head_runs_what_its_table_says():
    q, k, v = qkv()
    plan = build(table((0.5, [[0, 0, 0, 0], [0, 1, 2, 1]]), (1, [[1] * 4, [2] * 4])))
    early = Context(grid=GRID, layer=1, n_layers=2, progress=0.4)
    out = block_sparse_attention(q, k, v, plan.layout(q, k, GRID, early))[0]
    for head, number in enumerate([0, 1, 2, 1]):
        alone = block_sparse_attention(q, k, v, plan.candidates[number].layout(q, k, GRID, early))[0]
        torch.testing.assert_close(out[:, head], alone[:, head])
    late = Context(grid=GRID, layer=1, n_layers=2, progress=0.5)
    assert plan.layout(q, k, GRID, late).density == 1
    assert plan.static


@pytest.mark.parametrize("kept", ["frames", "places"])
def test_sampled_rows_find_the_head_that_looks_within_a_frame_and_the_one_that_looks_along_time(kept):
    """Two heads: keys carry their frame in one, their place in the frame in the other."""
    frame = torch.arange(GRID.video_tokens) // GRID.frame_tokens
    place = torch.arange(GRID.video_tokens) % GRID.frame_tokens
    codes = torch.zeros(1, 2, GRID.tokens, 40)
    codes[0, 0, torch.arange(GRID.video_tokens), frame] = 30
    codes[0, 1, torch.arange(GRID.video_tokens), 8 + place] = 30
    policy = build({"kind": "sampled_rows", "rows": 12}, FRAMES, PLACES)
    layouts = [one.layout(codes, codes, GRID, Context(grid=GRID)) for one in policy.candidates]
    choice = policy.choose.choose(codes, codes, layouts)
    assert choice.tolist() == [[0, 1]]
    layout = policy.layout(codes, codes, GRID, Context(grid=GRID))
    dense = torch.nn.functional.scaled_dot_product_attention(codes, codes, codes)
    torch.testing.assert_close(
        block_sparse_attention(codes, codes, codes, layout)[0], dense, atol=0.05, rtol=0
    )


def test_the_rows_that_are_asked_are_spread_over_the_sequence():
    assert SampledRows(4).positions(10, torch.device("cpu")).tolist() == [0, 3, 6, 9]


def test_sampled_rows_of_a_causal_sequence_see_no_future():
    """Key 60 is what every query would look at; only the last three may."""
    k = torch.zeros(1, 1, 64, 4)
    k[..., 60, 0], k[..., 0, 0] = 100, 50
    q = torch.ones(1, 1, 64, 4)
    first = {"method": "compose", "always": {"sink": 1}, "block_size": [16, 16]}
    recent = {"method": "compose", "always": {"recent": 16}, "block_size": [16, 16]}
    policy = build({"kind": "sampled_rows", "rows": 64}, recent, first)
    layouts = [one.layout(q, k, None, Context()) for one in policy.candidates]
    assert policy.choose.choose(q, k, layouts).tolist() == [[1]]


def test_another_model_s_table_is_refused():
    q, k, _ = qkv()
    plan = build(table((1, [[0, 1, 2, 1]])))
    with pytest.raises(ValueError, match="the table's number of layers is 1, this model's 3"):
        plan.layout(q, k, GRID, Context(grid=GRID, n_layers=3))
    with pytest.raises(ValueError, match="the table's number of heads in layer 0 is 4, this call's 2"):
        plan.layout(q[:, :2], k, GRID, Context(grid=GRID))


@pytest.mark.parametrize(
    ("choose", "candidates", "message"),
    [
        (table((1, [[3]])), [FRAMES], "names candidate 3; there are 1, counted from 0"),
        (table((0.5, [[0]])), [FRAMES], r"must ascend from above 0 and end at 1, got \[0.5\]"),
        (
            table((1, [[0]]), (0.5, [[0]])),
            [FRAMES],
            r"must ascend from above 0 and end at 1, got \[1.0, 0.5\]",
        ),
        (
            table((1, [[0]])),
            [FRAMES, {"method": "dense"}],
            r"blocks of one size, got \[\(16, 16\), \(128, 128\)\]",
        ),
    ],
)
def test_nonsense_is_refused_at_birth(choose, candidates, message):
    with pytest.raises(ValidationError, match=message):
        build(choose, *candidates)
