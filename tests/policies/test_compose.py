"""Composed: published methods as choices of parts; each is dense when it keeps everything."""

import pytest
import torch
from pydantic import TypeAdapter

from accel.kernels.attention.reference import block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed

METHODS = {
    "xattention": {
        "score": {"kind": "antidiagonal", "stride": 16},
        "select": {"kind": "top_p", "mass": 0.9},
        "always": {"sink": 1},
    },
    "spargeattn": {
        "order": {"kind": "hilbert"},
        "score": {"kind": "pooled", "self_similarity": 0.1},
        "select": {"kind": "top_p", "mass": 0.9},
        "block_size": [128, 64],
    },
    "sliding-tile": {
        "order": {"kind": "tile", "size": [2, 4, 4]},
        "always": {"window": {"size": [2, 4, 4], "stride": [2, 4, 4]}},
        "block_size": [32, 32],
    },
    "neighbourhood": {
        "order": {"kind": "tile", "size": [2, 4, 4]},
        "always": {"window": {"size": [3, 5, 5], "stride": [1, 1, 1]}},
        "block_size": [32, 32],
    },
    "blade-asa": {
        "order": {"kind": "hilbert"},
        "score": {"kind": "sampled", "per_block": 16},
        "select": {"kind": "top_p", "mass": 0.95, "min_density": 0.05, "max_density": 0.3},
        "tail": True,
        "block_size": [32, 32],
    },
    "jenga": {
        "order": {"kind": "hilbert"},
        "score": {"kind": "pooled"},
        "select": {"kind": "top_p", "mass": 0.5, "min_density": 0.2},
        "always": {"adjacent": True},
        "block_size": [32, 32],
    },
    "nabla": {
        "order": {"kind": "tile", "size": [1, 8, 8]},
        "score": {"kind": "pooled"},
        "select": {"kind": "top_p", "mass": 0.6},
        "always": {"window": {"size": [1, 8, 8], "stride": [1, 8, 8]}},
        "block_size": [64, 64],
    },
    "pisa": {
        "score": {"kind": "pooled"},
        "select": {"kind": "top_k", "density": 0.3},
        "tail": True,
        "block_size": [64, 64],
    },
    "vmoba": {
        "order": {
            "kind": "cycle",
            "orders": [{"kind": "tile", "size": [1, 99, 99]}, {"kind": "axes", "axes": "hwf"}],
        },
        "score": {"kind": "pooled"},
        "select": {"kind": "top_p", "mass": 0.5, "budget": "head"},
        "block_size": [32, 32],
    },
    "dilated": {
        "order": {"kind": "residues", "strides": [1, 2, 2]},
        "always": {"window": {"size": [2, 3, 3], "dilation": [1, 2, 2]}},
        "block_size": [16, 16],
    },
    "layer-budget": {
        "order": {"kind": "axes", "axes": "whf"},
        "score": {"kind": "strided", "query": 8, "key": 4},
        "select": {"kind": "top_k", "density": 0.3, "budget": "layer"},
        "always": {"first_frame": True},
        "block_size": [64, 32],
    },
}
GRID_METHODS = [name for name in METHODS if name != "xattention"]
GRIDS = [TokenGrid(3, 9, 11), TokenGrid(4, 7, 9, 21), TokenGrid(4, 7, 9, 21, text_first=True)]


def build(fields):
    return TypeAdapter(Composed).validate_python({"method": "compose", **fields})


def qkv(tokens, heads=4, kv_heads=2, dim=16, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, count, tokens, dim, generator=generator, dtype=torch.float64)
        for count in (heads, kv_heads, kv_heads)
    ]


def everything(fields):
    """The same method told to keep all there is."""
    if "select" in fields:
        return {**fields, "select": {"kind": "top_p", "mass": 1}}
    return {**fields, "always": {"window": {"size": [99, 99, 99], "stride": [1, 1, 1]}}}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", GRID_METHODS)
def test_keeping_everything_equals_dense(method, grid):
    q, k, v = qkv(grid.tokens)
    layout = build(everything(METHODS[method])).layout(q, k, grid, Context(grid=grid))
    assert layout.density == 1
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", GRID_METHODS)
def test_every_token_sees_itself_and_text_sees_and_is_seen(method, grid):
    q, k, _ = qkv(grid.tokens)
    layout = build(METHODS[method]).layout(q, k, grid, Context(grid=grid))
    assert 0 < layout.density <= 1
    mask = layout.to_mask(2)
    assert mask.diagonal(dim1=-2, dim2=-1).all()
    text = torch.ones(grid.tokens, dtype=torch.bool)
    text[grid.video_start : grid.video_start + grid.video_tokens] = False
    assert mask[:, :, text].all() and mask[..., text].all()


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_planned_as_if_it_were_alone(method):
    """Guidance runs both branches in one batch."""
    grid = None if method == "xattention" else GRIDS[1]
    q, k, _ = qkv(GRIDS[1].tokens)
    policy = build(METHODS[method])
    both = policy.layout(q, k, grid, Context()).listed
    for sample in range(2):
        alone = policy.layout(q[sample : sample + 1], k[sample : sample + 1], grid, Context()).listed
        assert torch.equal(both[min(sample, len(both) - 1)], alone[0])


@pytest.mark.parametrize("lengths", [(300, 300), (70, 300), (1, 40)], ids=str)
def test_a_causal_sequence_keeping_everything_equals_dense(lengths):
    q, k, v = qkv(lengths[1])
    q = q[:, :, : lengths[0]]
    layout = build(everything(METHODS["xattention"])).layout(q, k, None, Context())
    assert layout.causal
    seen = torch.arange(lengths[1]) <= torch.arange(lengths[0])[:, None] + lengths[1] - lengths[0]
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, enable_gqa=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense)


def test_a_causal_sequence_keeps_its_sink_and_diagonal():
    q, k, _ = qkv(600)
    layout = build({**METHODS["xattention"], "select": {"kind": "top_k", "density": 0.1}}).layout(
        q, k, None, Context()
    )
    assert layout.listed[..., 0].all() and layout.listed.diagonal(dim1=-2, dim2=-1).all()
    assert layout.density < 1


def test_a_needle_is_found():
    """One block of keys answers one block of queries: every score finds it, a random choice would not."""
    grid = TokenGrid(8, 8, 16)
    q, k, _ = qkv(grid.tokens, dim=32)
    q[:, :, 100:128] += 4
    k[:, :, 900:928] += 4
    for kind in ("pooled", "sub_block", "strided", "antidiagonal", "sampled"):
        fields = {
            "score": {"kind": kind},
            "select": {"kind": "top_k", "density": 0.1},
            "block_size": [32, 32],
        }
        listed = build(fields).layout(q, k, grid, Context()).listed
        assert listed[:, :, 3, 28].all(), kind


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"score": {"kind": "pooled"}}, "score and select belong together"),
        ({**METHODS["pisa"], "score": {"kind": "strided", "query": 48}}, "not a multiple of .*48"),
        ({**METHODS["pisa"], "score": {"kind": "stride"}}, "stride"),
        ({**METHODS["pisa"], "order": {"kind": "tile"}}, "size"),
        ({**METHODS["pisa"], "tails": True}, "tails"),
    ],
    ids=["half", "step", "kind", "no-size", "unknown-key"],
)
def test_nonsense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(fields)


def test_an_order_needs_a_grid():
    q, k, _ = qkv(40)
    with pytest.raises(ValueError, match="order 'hilbert' needs a token grid"):
        build(METHODS["jenga"]).layout(q, k, None, Context())


def test_middling_blocks_take_turns_and_the_best_stay():
    grid, tokens = TokenGrid(1, 16, 16), torch.zeros(1, 2, 256, 16)
    tokens[:, :, :16] = 3.0  # One block of sixteen has nearly all of the mass of its own row.
    rest = {"score": {"kind": "pooled"}, "select": {"kind": "top_k", "density": 0.25}, "block_size": (16, 16)}
    still, moving = (Composed(**rest, turns=turns) for turns in (0.0, 1.0))

    def listed(policy, step, layer=0):
        context = Context(grid, step, 8, step / 8, layer=layer, n_layers=4)
        return policy.layout(tokens, tokens, grid, context).listed

    assert torch.equal(listed(still, 1), listed(still, 2))
    assert torch.equal(listed(moving, 1), listed(moving, 1))
    assert not torch.equal(listed(moving, 1), listed(moving, 2))
    assert not torch.equal(listed(moving, 1), listed(moving, 1, layer=1))
    for step in range(4):
        assert listed(moving, step).sum() == listed(still, step).sum()
        assert listed(moving, step)[0, :, 0, 0].all()


@pytest.mark.parametrize("step", range(4))
def test_shifted_windows_are_attention_inside_rolled_quarters_of_a_picture(step):
    grid, layer, side = TokenGrid(1, 16, 24), 3, (8, 12)
    policy = Composed(order={"kind": "windows", "count": (1, 2, 2), "shifts": 4}, block_size=(32, 32))
    q, k, v = torch.randn(3, 2, 2, grid.tokens, 16).unbind()
    context = Context(grid=grid, step=step, n_steps=8, layer=layer)
    layout = policy.layout(q, k, grid, context)
    assert float(layout.density) == 0.25
    shift = [-(length // 4) * ((step + layer) % 4) for length in side]

    def windows(tokens):  # [2, 2, N, 16] -> [2, 2, 4, 96, 16]
        picture = tokens.unflatten(2, (16, 24)).roll(shift, dims=(2, 3))
        return picture.unflatten(3, (2, 12)).unflatten(2, (2, 8)).transpose(3, 4).flatten(4, 5).flatten(2, 3)

    inside = torch.nn.functional.scaled_dot_product_attention(windows(q), windows(k), windows(v))
    torch.testing.assert_close(windows(block_sparse_attention(q, k, v, layout)[0]), inside)


def test_shifted_windows_of_any_size_see_their_own_tokens():
    grid = TokenGrid(1, 13, 9)
    policy = Composed(order={"kind": "windows", "count": (1, 2, 2), "shifts": 4}, block_size=(16, 16))
    q = torch.zeros(1, 1, grid.tokens, 16)
    for turn in range(4):
        layout = policy.layout(q, q, grid, Context(grid=grid, turn=turn))
        windows = policy.order.at_turn(turn).windows(grid).flatten()
        assert layout.to_mask()[0, 0][windows[:, None] == windows].all() and layout.density < 1
