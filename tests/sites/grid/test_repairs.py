"""Rectified and probed: their rules by hand and by loops, dense where every block is kept, and their work."""

import torch
from pytest import approx, mark, raises

from accel import accelerate_model, summary
from accel.kernels.attention.reference import block_sparse_attention as reference
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder
from accel.kernels.layout.visibility import Visibility
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.recipe.compensate import Probed, Rectified
from accel.sites.grid.probed import Prober
from accel.sites.grid.rectified import Rectifier
from tiny_wan_pipeline import POOLED, latents, recipe, wan_pipeline

N, D, ROWS = 77, 16, 16
REPAIRS = {"rectified": Rectifier(Rectified()), "probed": Prober(Probed(probes=12, directions=4))}
LENGTHS = torch.tensor([60, 33], dtype=torch.int32)


def order(seed, heads=None):
    generator = torch.Generator().manual_seed(seed)
    if heads is None:
        return TokenOrder.checked(torch.randperm(N, generator=generator))
    return TokenOrder.checked(
        torch.stack([torch.randperm(N, generator=generator) for _ in range(heads)])[None]
    )


FORMS = {
    "plain": {},
    "order": {"q_order": order(1), "kv_order": order(2)},
    "order by head": {"q_order": order(3, 2), "kv_order": order(3, 2)},
    "padded": {"kv_lengths": LENGTHS},
    "chunks": {"visibility": Visibility.chunks(N, N, 24)},
}


def qkv(kv_heads=2, seed=0, dim=D):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, heads, N, dim, generator=generator) for heads in (2, kv_heads, kv_heads))


def some_blocks(share=0.5, **rest):
    keep = torch.rand(1, 2, 5, 5, generator=torch.Generator().manual_seed(3)) < share
    keep[..., 0] = True
    keep[..., 4, :] = True  # Its rows miss nothing.
    return BlockLayout.from_mask(keep, (ROWS, ROWS), N, N, **rest)


def repaired(repair, tensors, layout):
    return repair(reference(*tensors, layout)[0], *tensors, layout)


@mark.parametrize("repair", REPAIRS.values(), ids=REPAIRS)
@mark.parametrize("rest", FORMS.values(), ids=FORMS)
@mark.parametrize("kv_heads", [2, 1])
def test_every_block_is_dense_attention_and_rows_that_miss_nothing_stay(repair, rest, kv_heads):
    tensors, full = qkv(kv_heads), BlockLayout.full(N, N, (ROWS, ROWS), **rest)
    dense = reference(*tensors, full)[0]
    torch.testing.assert_close(repaired(repair, tensors, full), dense, atol=1e-5, rtol=1e-5)
    layout = some_blocks(**rest)
    found = repaired(repair, tensors, layout) - dense
    found = layout.q_order.permute(found) if layout.q_order else found
    assert found[:, :, :64].abs().max() > 1e-3
    if "visibility" not in rest:
        assert found[:, :, 64:].abs().max() < 1e-5


@mark.parametrize("repair", REPAIRS.values(), ids=REPAIRS)
def test_padding_is_in_no_repair(repair):
    tensors, layout = qkv(), some_blocks(**FORMS["padded"])
    padding = torch.arange(N)[:, None] >= LENGTHS[:, None, None, None]
    others = tuple(x + 100 * padding for x in tensors)
    found = (repaired(repair, these, layout).masked_fill(padding, 0) for these in (tensors, others))
    assert torch.equal(*found)


def windowed(window=(3, 3, 3)):
    """What an exact window keeps of 60 tokens of video and 4 of text, which comes first."""
    grid = TokenGrid(3, 4, 5, text_tokens=4, text_first=True)
    always = {"window": {"size": window, "exact": True}}
    policy = recipe({"method": "compose", "always": always, "block_size": [16, 64]}).rules[0].policy
    x = torch.zeros(1, 2, 64, D)
    return policy.layout(x, x, grid, Context(grid=grid))


def test_queries_whose_window_hides_keys_of_listed_blocks_are_repaired_and_others_stay():
    tensors = tuple(x[:, :, :64] for x in qkv())
    dense = reference(*tensors, BlockLayout.full(64, 64, (16, 64)))[0]
    layout = windowed()
    assert layout.listed.all()
    changed = repaired(REPAIRS["probed"], tensors, layout) - reference(*tensors, layout)[0]
    assert changed[:, :, :4].abs().max() < 1e-5  # Text misses nothing.
    assert (changed[:, :, 4:].abs().amax(dim=3) > 0).all()
    with raises(ValueError, match="count as whole"):
        repaired(REPAIRS["rectified"], tensors, layout)
    torch.testing.assert_close(repaired(REPAIRS["probed"], tensors, windowed((9, 9, 9))), dense)


def test_means_of_blocks_of_equal_tokens_are_exact():
    q, k, v = qkv()
    q, k = (x[:, :, ::ROWS].repeat_interleave(ROWS, dim=2)[:, :, :N] for x in (q, k))
    dense = reference(q, k, v, BlockLayout.full(N, N, (ROWS, ROWS)))[0]
    found = repaired(REPAIRS["rectified"], (q, k, v), some_blocks())
    torch.testing.assert_close(found, dense, atol=1e-5, rtol=1e-5)


def test_means_that_are_worth_less_than_their_error_are_left_out():
    # Two blocks with the mean keys (3, 0) and (2, 0), the second one's keys some way to either side of it.
    q = torch.zeros(1, 1, 32, 2)
    q[..., 0] = 1.0
    k = torch.tensor([3.0, 0.0]).repeat(32, 1)[None, None]
    k[..., 16:, :] = torch.tensor([2.0, 0.0])
    v = torch.cat([torch.ones(1, 1, 16, 2), 5 * torch.ones(1, 1, 16, 2)], dim=2)
    keep = torch.tensor([[True, False]] * 2)[None, None]
    layout = BlockLayout.from_mask(keep, (16, 16), 32, 32)
    second = 1 / (1 + torch.tensor(1 / 2**0.5).exp())
    for apart, tail in ((1.5, 5.0), (2.5, 0.0)):
        keys = k.clone()
        keys[..., 16::2, 1] += apart
        keys[..., 17::2, 1] -= apart
        found = repaired(REPAIRS["rectified"], (q, keys, v), layout)
        torch.testing.assert_close(found, (1 - second + tail * second).expand(1, 1, 32, 2))


def test_what_follows_from_the_output_is_put_back():
    # Without queries a row is the mean of the values it sees, and lacks the mean of all less that: affine.
    q, k, v = qkv()
    tensors = torch.zeros_like(q), k, v
    dense = reference(*tensors, BlockLayout.full(N, N, (ROWS, ROWS)))[0]
    layout = some_blocks()
    before = reference(*tensors, layout)[0] - dense
    errors = [
        (repaired(Prober(Probed(probes=40, directions=n)), tensors, layout) - dense).norm() / before.norm()
        for n in (1, D)
    ]
    assert errors[1] < 0.8 * errors[0] < 0.3


def test_probes_are_exact_and_spread_over_the_blocks():
    tensors, layout = qkv(), some_blocks(**FORMS["order by head"])
    dense = reference(*tensors, BlockLayout.full(N, N, (ROWS, ROWS)))[0]
    found = repaired(REPAIRS["probed"], tensors, layout)
    places = layout.q_order.indices[..., [3, 9, 16, 22, 28, 35, 41, 48, 54, 60, 67, 73]]
    at = places[..., None].expand(2, 2, -1, D)
    torch.testing.assert_close(found.gather(2, at), dense.gather(2, at), atol=1e-5, rtol=1e-5)


@mark.parametrize("dim", [D, 48])
def test_calls_that_are_not_finite_are_as_dense_ones(dim):
    q, k, v = qkv(dim=dim)
    v[0, 0, 5] = torch.nan
    for repair in REPAIRS.values():
        found = repaired(repair, (q, k, v), some_blocks())
        assert found[0, 0].isnan().any() and found[1].isfinite().all()


@mark.parametrize(("kind", "extra"), [("rectified", 0.0), ("probed", 8 / 300)])
def test_in_a_model_the_work_is_counted_and_nothing_is_kept(kind, extra):
    how = {"kind": "probed", "probes": 8} if kind == "probed" else {"kind": kind}
    plain, pipe = wan_pipeline(), wan_pipeline()
    accelerate_model(plain, recipe())
    accelerate_model(pipe, recipe(compensate=how))
    first, second = latents(pipe), latents(pipe)
    assert torch.equal(first, second) and not torch.equal(first, latents(plain))
    # The passes of guidance share one of six calls.
    assert summary(pipe).density == approx(summary(plain).density + extra * 5 / 6, abs=1e-5)


def test_means_do_not_count_twice():
    tailed = {**POOLED, "tail": True}
    per_head = {"method": "per_head", "choose": {"kind": "sampled_rows", "rows": 8}, "candidates": [tailed]}
    for policy in (tailed, per_head):
        with raises(ValueError, match="leave one of the two out"):
            recipe(policy, compensate={"kind": "rectified"})
        recipe(policy, compensate={"kind": "probed"})
    with raises(ValueError, match="a layout with a tail"):
        repaired(REPAIRS["rectified"], qkv(), some_blocks(tail=True))
