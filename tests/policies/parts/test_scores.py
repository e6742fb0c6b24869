"""Scores: each against a token-level computation of its own definition."""

import pytest
import torch

from accel.kernels.planning import mass as block_mass_module
from accel.policies.parts.scores import (
    Antidiagonal,
    Bounds,
    Exact,
    Pooled,
    Sampled,
    Strided,
    SubBlock,
    Wanted,
)

ALL = [
    Pooled(),
    SubBlock(16, 16),
    SubBlock(8, 4),
    Strided(8, 4),
    Exact(),
    Antidiagonal(8),
    Antidiagonal(1),
    Bounds(8, 4),
    Sampled(8),
]
CAUSAL = [score for score in ALL if score.kind != "sampled"]


def name(score):
    return "-".join(str(value) for value in vars(score).values())


def qk(m=100, n=100, heads=4, kv_heads=2, dim=16, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(batch, heads, m, dim, generator=generator)
    k = torch.randn(batch, kv_heads, n, dim, generator=generator) + 2
    return q.to(dtype), k.to(dtype)


def exact_mass(q, k, rows, columns, causal=False):
    """What attention really puts on each block."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        m, n = logits.shape[-2:]
        logits = logits.masked_fill(torch.arange(n) > torch.arange(m)[:, None] + n - m, -torch.inf)
    cells = logits.softmax(-1).split(columns, -1)
    cells = torch.stack([cell.sum(-1) for cell in cells], -1).split(rows, 2)
    return torch.stack([cell.mean(2) for cell in cells], 2)


@pytest.mark.parametrize("score", ALL, ids=name)
@pytest.mark.parametrize("lengths", [(128, 64), (100, 101), (33, 250), (1, 40)], ids=str)
def test_rows_are_shares_of_one(score, lengths):
    q, k = qk(*lengths)
    mass = score.mass(q, k, (32, 16))
    assert mass.shape == (2, 4, -(-lengths[0] // 32), -(-lengths[1] // 16)) and mass.dtype == torch.float32
    assert mass.min() >= 0
    torch.testing.assert_close(mass.sum(-1), torch.ones(mass.shape[:3]))


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("score", [Exact(), SubBlock(1, 1), Antidiagonal(1), Bounds(1, 1)], ids=name)
def test_a_score_of_every_token_is_exact(score, causal):
    q, k = qk(70, 101)
    torch.testing.assert_close(
        score.mass(q, k, (32, 16), causal=causal), exact_mass(q, k, 32, 16, causal), rtol=1e-4, atol=1e-6
    )


def test_pooled_is_softmax_of_means_weighted_by_length():
    q, k = qk(40, 40, heads=1, kv_heads=1, batch=1)
    mean_q = torch.stack([q[:, :, :32].mean(2), q[:, :, 32:].mean(2)], 2)
    mean_k = torch.stack([k[:, :, :32].mean(2), k[:, :, 32:].mean(2)], 2)
    logits = mean_q @ mean_k.transpose(-1, -2) / 4 + torch.tensor([32.0, 8.0]).log()
    torch.testing.assert_close(Pooled().mass(q, k, (32, 32)), logits.softmax(-1))


@pytest.mark.parametrize("steps", [(8, 4), (4, 8), (8, 8), (1, 16)], ids=str)
def test_strided_attention_of_each_token_to_itself_is_seen(steps):
    places = torch.arange(60)
    x = 6 * torch.nn.functional.one_hot(places, 60)[None, None].float()
    mass = Strided(*steps).mass(x, x, (16, 16))[0, 0]
    assert (mass.argmax(-1) == torch.arange(4)).all()


@pytest.mark.parametrize("lengths", [(70, 101), (64, 64), (33, 250)], ids=str)
@pytest.mark.parametrize("rows", [1, 4])
def test_wanted_is_the_share_of_the_row_that_has_most(lengths, rows):
    q, k = qk(*lengths)
    # A row that is asked stands for its group: it sees what the last of the group sees.
    asked = torch.arange(0, lengths[0], rows)
    here = (asked + rows // 2).clamp(max=lengths[0] - 1)
    seen = (asked + rows).clamp(max=lengths[0]) - 1 + lengths[1] - lengths[0]
    logits = q[:, :, here] @ k.repeat_interleave(2, 1).transpose(-1, -2) / 4
    logits = logits.masked_fill(torch.arange(lengths[1]) > seen[:, None], -torch.inf)
    shares = torch.stack([cell.sum(-1) for cell in logits.softmax(-1).split(16, -1)], -1)
    expected = torch.stack([cell.amax(2) for cell in shares.split(32 // rows, 2)], 2)
    mass = Wanted(rows, 1.0).mass(q, k, (32, 16), causal=True)
    torch.testing.assert_close(mass, expected, rtol=1e-4, atol=1e-6)


def test_one_row_of_many_is_heard():
    q, k = torch.zeros(1, 1, 64, 8), torch.zeros(1, 1, 64, 8)
    k[:, :, 20, 0], q[:, :, 34, 0] = 40, 4
    k[:, :, 0, 1], q[:, :, :34, 1], q[:, :, 35:, 1] = 40, 4, 4
    wanted, mean = Wanted(4, 0.25).mass(q, k, (64, 16)), Strided(4, 1).mass(q, k, (64, 16))
    assert wanted[0, 0, 0, 1] > 0.9 and mean[0, 0, 0, 1] < 0.1


def test_channels_in_which_keys_are_alike_are_left_out():
    q, k = qk(64, 96)
    k[..., :8] = 7  # large, and the same in every key
    torch.testing.assert_close(
        Wanted(4, 0.5).mass(q, k, (32, 16), causal=True), Wanted(4, 1.0).mass(q, k, (32, 16), causal=True)
    )


@pytest.mark.parametrize("lengths", [(150, 150), (40, 203)], ids=str)
@pytest.mark.parametrize("score", [Strided(8, 4), Wanted(4, 0.5), SubBlock(8, 16)], ids=name)
def test_chunks_do_not_show(score, lengths, monkeypatch):
    q, k = qk(*lengths)
    whole = score.mass(q, k, (32, 16), causal=True)
    monkeypatch.setattr(block_mass_module, "CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(score.mass(q, k, (32, 16), causal=True), whole)


def test_antidiagonal_adds_up_the_antidiagonals():
    q, k = qk(64, 64, heads=1, kv_heads=1, batch=1, dim=8)
    full = (q @ k.transpose(-1, -2))[0, 0]
    cells = torch.empty(16, 16)
    for i in range(16):
        for j in range(16):
            cells[i, j] = sum(full[4 * i + 3 - r, 4 * j + r] for r in range(4))
    expected = (cells / (8**0.5 * 4)).softmax(-1).reshape(4, 4, 4, 4).sum(3).mean(1)
    torch.testing.assert_close(Antidiagonal(4).mass(q, k, (16, 16))[0, 0], expected)


def test_bounds_are_the_best_corners_of_the_boxes():
    q, k = qk(48, 44, heads=1, kv_heads=1, batch=1, dim=8)
    logits = torch.empty(6, 11)
    for i in range(6):
        mean = q[0, 0, 8 * i : 8 * i + 8].mean(0)
        for j in range(11):
            keys = k[0, 0, 4 * j : 4 * j + 4]
            logits[i, j] = torch.maximum(mean * keys.amin(0), mean * keys.amax(0)).sum() / 8**0.5
    expected = logits.softmax(-1).reshape(3, 2, 11).mean(1)
    expected = torch.stack([cell.sum(-1) for cell in expected.split(4, -1)], -1)
    torch.testing.assert_close(Bounds(8, 4).mass(q, k, (16, 16))[0, 0], expected)


def test_one_strong_key_among_weak_ones_shows_in_bounds_and_not_in_means():
    q, k = torch.ones(1, 1, 16, 8), torch.zeros(1, 1, 64, 8)
    k[:, :, 20] = 8
    k[:, :, 16:32] -= 1
    assert Bounds(16, 16).mass(q, k, (16, 16)).argmax(-1).item() == 1
    assert SubBlock(16, 16).mass(q, k, (16, 16)).argmin(-1).item() == 1


def test_sampled_is_the_strongest_pair_of_a_block():
    q, k = qk(64, 64, heads=1, kv_heads=1, batch=1)
    full = (q @ k.transpose(-1, -2) / 4).softmax(-1)
    expected = full.reshape(1, 1, 4, 16, 4, 16).amax((3, 5))
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(Sampled(16).mass(q, k, (16, 16)), expected)


@pytest.mark.parametrize("score", CAUSAL, ids=name)
def test_causal_scores_never_look_ahead(score):
    q, k = qk(70, 101)
    mass = score.mass(q, k, (32, 16), causal=True)
    last_query = torch.tensor([31, 63, 69]) + 31
    future = torch.arange(7) * 16 > last_query[:, None]
    assert (mass[..., future] == 0).all()
    changed = k.clone()
    changed[:, :, 64:] = 9
    torch.testing.assert_close(
        score.mass(q, changed, (32, 16), causal=True)[:, :, 0], mass[:, :, 0], rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("score", ALL, ids=name)
def test_an_offset_common_to_all_keys_changes_nothing(score):
    q, k = qk()
    torch.testing.assert_close(
        score.mass(q, k + 30, (32, 16)), score.mass(q, k, (32, 16)), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("score", ALL, ids=name)
def test_heads_of_a_group_share_its_keys(score):
    q, k = qk()
    torch.testing.assert_close(score.mass(q, k, (32, 16)), score.mass(q, k.repeat_interleave(2, 1), (32, 16)))


@pytest.mark.parametrize("score", CAUSAL, ids=name)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_chunks_change_nothing(score, causal, monkeypatch):
    q, k = qk(130, 101)
    whole = score.mass(q, k, (32, 16), causal=causal)
    monkeypatch.setattr(block_mass_module, "CHUNK_ELEMENTS", 1)
    torch.testing.assert_close(score.mass(q, k, (32, 16), causal=causal), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("score", ALL, ids=name)
def test_half_precision_stays_finite_and_close(score, dtype):
    q, k = qk(dtype=dtype)
    mass = score.mass(q * 30, k * 30, (32, 16))
    assert mass.isfinite().all()
    exact = score.mass(q.float(), k.float(), (32, 16))
    torch.testing.assert_close(score.mass(q, k, (32, 16)), exact, rtol=0.1, atol=0.01)


def test_untrusted_blocks_are_kept_and_leave_the_softmax():
    q, k = qk(64, 64, heads=2, kv_heads=1)
    k[:, :, :16] = (
        torch.nn.functional.normalize(k[:, :, :16], dim=-1) * torch.tensor([1.0, -1.0]).repeat(8)[:, None]
    )
    q[:, :, 32:48] = q[:, :, 32:33]
    score = Pooled(self_similarity=0.5)
    must = score.must_keep(q, k, (16, 16))
    assert must.shape == (2, 2, 4, 4)
    assert must[..., 0].all(), "scattered keys: a column for everyone"
    assert not must[:, :, 2, 1:].any(), "equal queries and alike keys: trusted"
    assert must[:, :, [0, 1, 3]].all(), "scattered queries: whole rows"
    assert (score.mass(q, k, (16, 16))[..., 0] == 0).all()
    assert Pooled().must_keep(q, k, (16, 16)) is None


@pytest.mark.parametrize("fields", [{"query": 0}, {"query": 129}, {"key": 2.5}, {"stride": 4}], ids=str)
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError):
        Strided(**fields)


def test_sampled_refuses_causal_attention():
    q, k = qk()
    with pytest.raises(ValueError, match="not causal"):
        Sampled().mass(q, k, (32, 16), causal=True)
