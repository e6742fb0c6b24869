"""Draft: the published vectors, exact ragged regions, and what is always kept."""

import itertools

import pytest
import torch

from accel.kernels.attention.reference import block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.draft import Draft, block_regions, draft_map, head_threshold, strongest_region
from accel.policies.parts.selectors import TopK

CPU = torch.device("cpu")
Q = "-.5 .5 .5 1.5 -.25 .25 .75 1.25 1.5 2.5 3.5 4.5 1.75 2.25 3.75 4.25"
K = ".5 -.5 1.5 .5 .25 -.25 1.25 .75 2.5 1.5 3.5 2.5 2.25 1.75 3.25 2.75"
GRIDS = [
    TokenGrid(2, 16, 32),
    TokenGrid(3, 9, 21, 17),
    TokenGrid(3, 9, 21, 17, text_first=True),
    TokenGrid(2, 21, 9),
    TokenGrid(5, 3, 4),
]


def toy_map():
    """D1: two frames of 2 x 4 tokens, regions of 2 x 2, one channel."""
    q, k = (torch.tensor([float(x) for x in row.split()]).reshape(1, 1, 16, 1) for row in (Q, K))
    return draft_map(q, k, TokenGrid(2, 2, 4), (2, 2))


def qkv(grid, heads=4, kv_heads=2, dim=8, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, count, grid.tokens, dim, generator=generator, dtype=torch.float64)
        for count in (heads, kv_heads, kv_heads)
    ]


def rows(mask):
    return "/".join("".join(str(int(kept)) for kept in row) for row in mask)


def test_the_published_draft_map():
    expected = [
        [0.25, 0.25, 0.25, 0.25],
        [0.032059, 0.087144, 0.236883, 0.643914],
        [0.002144, 0.015842, 0.117059, 0.864955],
        [0.000006, 0.000329, 0.01798, 0.981684],
    ]
    torch.testing.assert_close(toy_map()[0, 0], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.0, "1111/1111/1111/1111"),
        (0.5, "1111/0011/0011/0001"),
        (0.75, "1111/0001/0001/0001"),
        (0.9, "0000/0001/0001/0001"),
    ],
)
def test_the_published_threshold(sparsity, expected):
    assert rows(head_threshold(toy_map(), 1 - sparsity)[0, 0]) == expected


def test_row_wise_selection_breaks_ties_to_the_left():
    keep = TopK(0.25).keep(toy_map(), torch.zeros(1, 1, 1, 1, dtype=torch.bool))
    assert rows(keep[0, 0]) == "1000/0001/0001/0001"


@pytest.mark.parametrize("density", [0.1, 0.33, 0.8])
def test_a_threshold_keeps_at_least_its_count(density):
    scores = torch.rand(2, 3, 11, 13)
    kept = head_threshold(scores, density).flatten(2).sum(-1)
    assert (kept == 143 - int((1 - density) * 143) + 1).all()


def test_alike_tokens_all_tie_and_are_all_kept():
    grid = TokenGrid(2, 16, 32)
    q = torch.ones(1, 2, grid.tokens, 8)
    assert Draft(density=0.1, select="head_threshold").layout(q, q, grid, Context()).density == 1


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_regions_are_the_exact_means_of_what_they_hold(grid):
    q, k, _ = qkv(grid)
    region = (4, 8)
    video = slice(grid.video_start, grid.video_start + grid.video_tokens)
    means = []
    for x in (q, k):
        box = x[:, :, video].unflatten(2, (grid.frames, grid.height, grid.width))
        means.append(
            torch.stack(
                [
                    box[:, :, f, i : i + 4, j : j + 8].mean((2, 3))
                    for f, i, j in itertools.product(
                        range(grid.frames), range(0, grid.height, 4), range(0, grid.width, 8)
                    )
                ],
                2,
            )
        )
    logits = means[0] @ means[1].repeat_interleave(2, 1).transpose(-1, -2) / 8**0.5
    torch.testing.assert_close(
        draft_map(q, k, grid, region), logits.softmax(-1).float(), rtol=1e-4, atol=1e-6
    )


def test_on_divisible_grids_blocks_are_regions():
    assert block_regions(TokenGrid(3, 16, 32), (8, 16), 128, CPU).tolist() == [[i] for i in range(12)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_blocks_know_the_regions_of_their_tokens(grid):
    region = (4, 8)
    down, across = -(-grid.height // 4), -(-grid.width // 8)
    regions = block_regions(grid, region, 32, CPU)
    whole = grid.frames * (grid.height // 4) * (grid.width // 8)
    assert all(len(set(row)) == 1 for row in regions[:whole].tolist())
    assert set(regions.flatten().tolist()) == set(range(grid.frames * down * across))


def test_a_block_is_worth_its_best_region():
    scores = torch.tensor([[0.1, 0.5, 0.2], [0.7, 0.3, 0.0], [0.0, 0.0, 0.9]])[None, None]
    blocks = torch.tensor([[0, 1], [2, 2]])
    both = strongest_region(strongest_region(scores, 2, blocks), 3, blocks)
    torch.testing.assert_close(both[0, 0], torch.tensor([[0.7, 0.2], [0.0, 0.9]]))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("select", ["head_threshold", "row_top_k"])
def test_keeping_everything_equals_dense(grid, select):
    q, k, v = qkv(grid)
    layout = Draft(density=1, select=select, region=(4, 8), block_size=(32, 32)).layout(q, k, grid, Context())
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], dense)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("select", ["head_threshold", "row_top_k"])
def test_text_the_diagonal_and_the_best_block_are_kept(grid, select):
    q, k, _ = qkv(grid)
    policy = Draft(density=0.1, select=select, region=(4, 8), block_size=(32, 32))
    layout = policy.layout(q, k, grid, Context())
    mask = layout.to_mask(2)
    assert mask.diagonal(dim1=-2, dim2=-1).all() and layout.listed.any(-1).all()
    text = torch.ones(grid.tokens, dtype=torch.bool)
    text[grid.video_start : grid.video_start + grid.video_tokens] = False
    assert mask[:, :, text].all() and mask[..., text].all()


def test_row_wise_density_is_as_asked_even_on_ragged_grids():
    grid = TokenGrid(6, 13, 21)
    q, k, _ = qkv(grid)
    policy = Draft(density=0.25, select="row_top_k", region=(4, 8), block_size=(32, 32))
    layout = policy.layout(q, k, grid, Context())
    assert (layout.kv_num_blocks == round(0.25 * layout.num_kv_blocks)).all()


def test_samples_of_a_batch_are_planned_alone():
    grid = TokenGrid(3, 9, 21, 17)
    q, k, _ = qkv(grid)
    policy = Draft(region=(4, 8), block_size=(32, 32))
    both = policy.layout(q, k, grid, Context()).listed
    alone = policy.layout(q[1:], k[1:], grid, Context()).listed
    assert torch.equal(both[1:], alone)


def test_regions_turn_with_the_picture():
    wide, high = TokenGrid(2, 8, 16), TokenGrid(2, 16, 8)
    q, k, _ = qkv(wide)
    policy = Draft(density=0.3, region=(2, 8), block_size=(16, 16))

    def turned(x):
        return x.unflatten(2, (2, 8, 16)).transpose(3, 4).flatten(2, 4)

    flat = policy.layout(q, k, wide, Context()).to_mask(2)
    upright = policy.layout(turned(q), turned(k), high, Context()).to_mask(2)
    place = turned(torch.arange(256).reshape(1, 1, 256, 1)).flatten()
    assert torch.equal(upright, flat[:, :, place][..., place])


@pytest.mark.parametrize(
    "fields",
    [{"density": 0}, {"density": 1.1}, {"select": "best"}, {"region": (0, 16)}, {"pool": 3}],
    ids=str,
)
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError):
        Draft(**fields)


def test_a_grid_is_needed():
    q, k, _ = qkv(TokenGrid(1, 4, 4))
    with pytest.raises(ValueError, match="draft needs a token grid"):
        Draft().layout(q, k, None, Context())
