"""What padding holds changes neither which blocks are chosen nor the attention over them, for any method."""

import pytest
import torch

from accel.kernels.attention.reference import block_sparse_attention
from accel.patches.context import Context
from accel.patches.diffusers.forwards.clock import Clock
from accel.patches.diffusers.forwards.forward import Forward, begin, end
from accel.patches.diffusers.forwards.root_hook import RootHook
from accel.patches.grid import TokenGrid
from accel.patches.site import Site
from accel.policies.compose import Composed
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.parts.ordering.orders import Hilbert, RowMajor
from accel.policies.parts.scores import Antidiagonal, Bounds, Pooled, Sampled, Strided, SubBlock
from accel.policies.parts.selectors import TopK, TopP
from accel.policies.permuted import Permuted
from accel.policies.radial import Radial
from accel.policies.search.stages import Stages
from accel.recipe.recipe import Recipe, Rule
from accel.recipe.reuse import Reuse
from accel.sites.grid.grid_attention import GridAttention
from accel.sites.grid.padding import hidden_last, without_padding

GRID = TokenGrid(3, 5, 9, 41)
LENGTHS = torch.tensor([GRID.tokens, GRID.video_tokens + 11], dtype=torch.int32)
BLOCK = (32, 16)
SCORES = {
    "pooled": Pooled(),
    "untrusted": Pooled(self_similarity=0.3),
    "strided": Strided(8, 4),
    "sub-block": SubBlock(16, 8),
    "antidiagonal": Antidiagonal(8),
    "bounds": Bounds(8, 8),
    "sampled": Sampled(8),
}
METHODS = {
    **{name: Composed(score=score, select=TopP(0.6), block_size=BLOCK) for name, score in SCORES.items()},
    "head-budget": Composed(score=Pooled(), select=TopK(0.3, "head"), order=Hilbert(), block_size=BLOCK),
    "permuted": Permuted(segment=32, probes=16, block_size=BLOCK),
    "draft": Draft(density=0.3, region=(2, 4), block_size=BLOCK),
    "hip-tree": Hip(density=0.2, block_size=BLOCK),
    "hip-stages": Hip(density=0.2, search=Stages(), order=RowMajor(), block_size=BLOCK),
    "radial": Radial(decay=0.3, block_size=BLOCK),
}


def qkv(padding: float) -> list[torch.Tensor]:
    """[B, N, H, D]; what sample 1 has beyond its length is `padding`, all else always the same."""
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(2, GRID.tokens, 2, 16, generator=generator) * 2 for _ in range(3)]
    for tensor in tokens:
        tensor[1, LENGTHS[1] :] = padding
    return tokens


def attend(policy, padding: float):
    """(lists, counts, output of what is no padding) of one masked call."""
    site = Site("attn", "", torch.nn.Identity(), 0, 1, 2)
    hook, forward = RootHook(Clock()), Forward(Context(GRID, text_padding="last"))
    begin(hook, forward, 0)
    rule = Rule(match="*", policy=policy)
    attention = GridAttention(site, rule, Recipe(rules=(rule,), reuse=Reuse(steps=2)), hook)
    mask = torch.arange(GRID.tokens) < LENGTHS[:, None, None, None]
    out = attention(*qkv(padding), mask, lambda: pytest.fail("dense"))
    end(hook)
    (kept,) = forward.kept.values()
    layout = kept.layout
    return layout.listed, out[0], out[1, : LENGTHS[1]]


@pytest.mark.filterwarnings("ignore:radial")
@pytest.mark.parametrize("policy", METHODS.values(), ids=METHODS.keys())
def test_what_padding_holds_changes_nothing(policy):
    for got, expected in zip(attend(policy, 50.0), attend(policy, -3.0), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_padded_keys_have_no_mass(score):
    """A sample's blocks have the mass they have without its padding; where blocks end with it, exactly."""
    q, k = (x.transpose(1, 2) for x in qkv(50.0)[:2])
    lengths = torch.full((2,), 144, dtype=torch.int32)
    mass = score.mass(q, without_padding(k, lengths), BLOCK, lengths=lengths)
    alone = score.mass(q, k[:, :, :144], BLOCK)
    torch.testing.assert_close(mass[..., : alone.shape[3]], alone)
    assert (mass[..., alone.shape[3] :] == 0).all()


def test_the_blocks_kept_do_not_depend_on_how_much_is_padded():
    """A longer batch pads a sample further: the video's blocks it keeps are the same."""
    policy = Composed(score=Strided(1, 1), select=TopP(0.6), block_size=BLOCK)
    q, k = (x.transpose(1, 2) for x in qkv(0.0)[:2])
    lengths = LENGTHS[1:]
    kept = []
    for tokens in (GRID.tokens, int(lengths)):
        grid = TokenGrid(GRID.frames, GRID.height, GRID.width, tokens - GRID.video_tokens)
        context = Context(grid, kv_lengths=lengths)
        listed = policy.layout(q[1:, :, :tokens], k[1:, :, :tokens], grid, context).listed
        kept.append(listed[:, :, : GRID.video_tokens // 32, : GRID.video_tokens // 16])
    assert torch.equal(*kept)


def test_the_reference_agrees_that_padding_is_not_read():
    layout = METHODS["permuted"].layout(
        *(x.transpose(1, 2) for x in qkv(0.0)[:2]), GRID, Context(GRID, kv_lengths=LENGTHS)
    )
    assert block_sparse_attention(*(x.transpose(1, 2) for x in qkv(0.0)), layout)[0].isfinite().all()


def test_the_image_of_each_sample_comes_first_where_it_follows_the_samples_own_text():
    """Two samples of text (3 tokens, 1 token), an image of 2 x 2, and padding (0, 2)."""
    seen = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    context = Context(TokenGrid(1, 2, 2, 3, text_first=True), text_padding="behind")
    placed, order, mask = hidden_last(context, seen[:, None, None], 2)
    assert order.tolist() == [[3, 4, 5, 6, 0, 1, 2], [1, 2, 3, 4, 0, 5, 6]]
    assert placed.grid == TokenGrid(1, 2, 2, 3) and torch.equal(mask[:, 0, 0], seen)
