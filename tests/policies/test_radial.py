"""Radial: the published vectors, a token-level oracle, and what it refuses."""

import math
import warnings

import pytest
import torch

from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.radial import Radial
from accel.policies.radial_mask import HAS_SINK, half_widths, keep_any
from accel.policies.radial_parity import keep_strict

R1 = (
    "ffcccc ffeeee ff7777 ff3333 fffccc fffeee fff777 fff333 ffffcc ffffee ffff77 ffff33 "
    "fcfffc fefffe f7fff7 f3fff3 fccfff feefff f77fff f33fff fcccff feeeff f777ff f333ff"
)
R1H = (
    "ffcccc ffeeee ff7777 ff3333 fffccc fffeee fff777 fff333 cfffcc efffee 7fff77 3fff33 "
    "ccfffc eefffe 77fff7 33fff3 cccfff eeefff 777fff 333fff ccccff eeeeff 7777ff 3333ff"
)
R3_STRICT = "ffb0 ffd8 feec fff4 fff8 fffc ffec dffc fffc 7ffc bffc ddfc 6ffc 37fc"
R3_ANY = "ffb8 fffc fefc fffc fff8 fffc ffec dffc fffc 7ffc fffc fdfc fffc 77fc"
R6 = "fff0 fff8 fff8 fff8 fff8 fff0 fff8 fff8 fff8 fff8 fff8 fff8 7bf8"


def blocks(vector: str, columns: int) -> torch.Tensor:
    rows = [bin(int("1" + row, 16))[3:][:columns] for row in vector.split()]
    return torch.tensor([[bit == "1" for bit in row] for row in rows])


def mask(reduction, frames, s, block, decay, rule, thr=None):
    grid = TokenGrid(frames, 1, s)
    widths = half_widths(frames, s, decay, rule, block, thr or block)
    if reduction == "any":
        return keep_any(grid, widths, HAS_SINK[rule], (block, block))
    return keep_strict(grid, widths, HAS_SINK[rule], block)


@pytest.mark.parametrize(
    ("case", "vector", "nnz"),
    [
        pytest.param(("strict", 6, 16, 4, 0.5, "wan"), R1, 480, id="R1"),
        pytest.param(("strict", 6, 16, 4, 0.5, "hunyuan"), R1H, 456, id="R1h"),
        pytest.param(("strict", 4, 14, 4, 1.0, "hunyuan"), R3_STRICT, 176, id="R3-strict"),
        pytest.param(("any", 4, 14, 4, 1.0, "hunyuan"), R3_ANY, 186, id="R3-any"),
        pytest.param(("any", 5, 10, 4, 0.5, "hunyuan"), R6, 165, id="R6-partial-last-block"),
    ],
)
def test_published_mask(case, vector, nnz):
    keep = mask(*case)
    assert torch.equal(keep, blocks(vector, keep.shape[1]))
    assert keep.sum() == nnz


def test_frame_decimation():
    """R2: beyond a distance only every second, fourth, eighth frame is seen."""
    keep = mask("strict", 20, 8, 4, 1.0, "hunyuan")
    per_frame = keep.reshape(20, 2, 20, 2).sum(dim=(1, 3))
    assert per_frame[0].tolist() == [4, 4, 4, 4, 4, 0, 4, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0]
    assert keep.sum() == 944


def test_paper_rule_by_token():
    """R4: equation 4 with the sink, one token a block."""
    grid = TokenGrid(10, 2, 2)
    keep = keep_any(grid, half_widths(10, 4, 1.0, "paper", 1), True, (1, 1))
    assert keep.sum() == 996
    assert torch.equal(keep[:4], blocks("ffcc888880 ffee444440 ff77222220 ff33111110", 40))
    assert torch.equal(keep[36:], blocks("f88888ccff f44444eeff f2222277ff f1111133ff", 40))


SPARSITY = {
    ("wan", 18): {
        0.2: 0.7129,
        0.25: 0.7013,
        0.3: 0.7013,
        0.5: 0.6611,
        0.8: 0.6232,
        0.95: 0.5953,
        1.0: 0.5691,
    },
    ("wan", 20): {
        0.2: 0.7308,
        0.25: 0.7202,
        0.3: 0.7202,
        0.5: 0.6828,
        0.8: 0.6475,
        0.95: 0.6189,
        1.0: 0.5944,
    },
    ("hunyuan", 30): {
        0.2: 0.8140,
        0.25: 0.8064,
        0.3: 0.8064,
        0.5: 0.7785,
        0.8: 0.7521,
        0.95: 0.7254,
        1.0: 0.7068,
    },
}


@pytest.mark.parametrize(("rule", "frames"), SPARSITY, ids="{}".format)
def test_published_sparsity(rule, frames):
    for decay, expected in SPARSITY[rule, frames].items():
        keep = mask("strict", frames, 3840, 128, decay, rule)
        assert 1 - keep.float().mean().item() == pytest.approx(expected, abs=5.1e-5), decay


@pytest.mark.parametrize(
    ("rule", "frames", "s", "decay", "expected"),
    [
        ("wan", 18, 3840, 0.2, 0.7013),
        ("wan", 21, 3600, 0.2, 0.6976),
        ("wan", 21, 1560, 0.2, 0.5588),
        ("hunyuan", 30, 3840, 0.95, 0.7068),
    ],
)
def test_sparsity_of_any_overlap(rule, frames, s, decay, expected):
    keep = mask("any", frames, s, 128, decay, rule)
    assert 1 - keep.float().mean().item() == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(("block", "threshold"), [(64, 53), (128, 106)])
@pytest.mark.parametrize("decay", [0.2, 0.45, 0.8, 1.0])
def test_strict_has_a_closed_form_on_aligned_frames(block, threshold, decay):
    """In a kept pair of frames, block (a, b) is kept iff |a - b| <= m, or = m + 1 with enough of a rest."""
    s = 5 * 2 * block
    widths = half_widths(6, s, decay, "hunyuan", block)
    keep = mask("strict", 6, s, block, decay, "hunyuan", thr=128)
    apart = (torch.arange(10)[:, None] - torch.arange(10)).abs()
    for d, width in enumerate(widths):
        m, rest = divmod(math.floor(width), block)
        expected = (apart <= m) | ((apart == m + 1) & (rest >= threshold))
        assert torch.equal(keep[:10, d * 10 : (d + 1) * 10], expected)


def brute_force(grid, widths, sink, block_size):
    """Token by token, straight from the rule."""
    video = range(grid.video_start, grid.video_start + grid.video_tokens)
    keep = torch.zeros([math.ceil(grid.tokens / rows) for rows in block_size], dtype=torch.bool)
    for a in range(grid.tokens):
        for b in range(grid.tokens):
            if a in video and b in video:
                i, x = divmod(a - grid.video_start, grid.frame_tokens)
                j, y = divmod(b - grid.video_start, grid.frame_tokens)
                allowed = (sink and j == 0) or abs(x - y) <= widths[abs(i - j)]
            else:
                allowed = True
            if allowed:
                keep[a // block_size[0], b // block_size[1]] = True
    return keep


@pytest.mark.parametrize("rule", ["wan", "hunyuan", "paper"])
@pytest.mark.parametrize("block_size", [(4, 4), (8, 4), (4, 8)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize(
    "grid",
    [
        TokenGrid(5, 3, 3),
        TokenGrid(9, 1, 2),
        TokenGrid(4, 3, 5, 7),
        TokenGrid(4, 3, 5, 7, True),
        TokenGrid(1, 5, 3),
    ],
    ids=str,
)
def test_any_keeps_every_block_with_a_kept_pair(grid, block_size, rule):
    widths = half_widths(grid.frames, grid.frame_tokens, 0.5, rule, 2, 4)
    keep = keep_any(grid, widths, HAS_SINK[rule], block_size)
    assert torch.equal(keep, brute_force(grid, widths, HAS_SINK[rule], block_size))


def call(policy, grid, heads=2, batch=2, context=None):
    q = torch.zeros(batch, heads, grid.tokens, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return policy.layout(q, q, grid, context or Context(grid=grid))


RAGGED = TokenGrid(7, 9, 13, 21)


@pytest.mark.parametrize("text_first", [False, True], ids=["text-last", "text-first"])
@pytest.mark.parametrize("block_size", [(128, 128), (64, 64), (128, 64)], ids="{0[0]}x{0[1]}".format)
def test_layout_is_sound_on_ragged_grids(block_size, text_first):
    grid = TokenGrid(7, 9, 13, 21, text_first)
    layout = call(Radial(decay=0.3, block_size=block_size), grid)
    mask = layout.to_mask()[0, 0]
    assert mask.diagonal().all()
    text = slice(0, 21) if text_first else slice(-21, None)
    assert mask[text].all() and mask[:, text].all()
    assert 0 < layout.density < 1


def test_two_frames_are_dense():
    assert call(Radial(decay=0.01), TokenGrid(2, 20, 20, 5)).density == 1


def test_density_grows_with_decay():
    grid = TokenGrid(12, 40, 40)
    densities = [call(Radial(decay=d), grid).density.item() for d in (0.1, 0.3, 0.6, 1.0)]
    assert densities == sorted(densities) and densities[0] < densities[-1]


def test_the_same_geometry_is_computed_once():
    assert call(Radial(decay=0.3), RAGGED) is call(Radial(decay=0.3), RAGGED)
    assert call(Radial(decay=0.3), RAGGED) is not call(Radial(decay=1.0), RAGGED)


def test_saturated_decay_is_warned_about_once():
    grid = TokenGrid(6, 31, 33)
    q = torch.zeros(1, 1, grid.tokens, 4)
    with pytest.warns(UserWarning, match=r"decay 0\.11 keeps the same blocks as 0\.055 on 6x31x33"):
        Radial(decay=0.11).layout(q, q, grid, Context())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Radial(decay=0.11).layout(q, q, grid, Context())
        Radial(decay=1.0).layout(q, q, grid, Context())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay": 0}, "greater than 0.*got 0"),
        ({"decay": 1.5}, "less than or equal to 1.*got 1.5"),
        ({"rule": "mochi"}, "mochi"),
        ({"block_size": (100, 128)}, "100"),
        ({"reduction": "strict", "block_size": (128, 64)}, r"square blocks only.*\(128, 64\)"),
        ({"rule": "paper", "decay": 0.5}, "no decay.*0.5"),
        ({"widht": 3}, "widht"),
    ],
    ids=str,
)
def test_nonsense_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Radial(**fields)


@pytest.mark.parametrize(
    ("policy", "grid", "message"),
    [
        (Radial(reduction="strict"), TokenGrid(3, 1, 10), "multiple of 128 video tokens, 3x1x10 has 30"),
        (Radial(reduction="strict"), TokenGrid(2, 8, 8, 5, True), "text first"),
    ],
    ids=["video-no-multiple", "text-first"],
)
def test_what_cannot_be_done_is_said(policy, grid, message):
    with pytest.raises(ValueError, match=message):
        call(policy, grid)


def test_a_wrong_grid_is_refused():
    q = torch.zeros(1, 1, 20, 4)
    with pytest.raises(ValueError, match="4x2x2 has 16 tokens, got 20 queries"):
        Radial().layout(q, q, TokenGrid(4, 2, 2), Context())
    with pytest.raises(ValueError, match="needs a token grid"):
        Radial().layout(q, q, None, Context())
