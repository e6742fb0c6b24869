"""What masks say, read from themselves: every pattern against the pattern it claims."""

import torch
from pytest import mark

from accel.patches.transformers import mask as transformers_mask
from accel.patches.transformers.mask import NOT_CAUSAL, Visible, read_visible


def causal(q_len, kv_len, offset, lengths=None, starts=None, window=None):
    """Bool [B, 1, M, N]: query r sees the keys from starts[b] to r + offset, before lengths[b], or the last
    `window` of them."""
    keys = torch.arange(kv_len)
    last = torch.arange(q_len)[:, None] + offset
    mask = (keys <= last) & (keys > last - (window or kv_len))
    lengths, starts = torch.tensor(lengths or [kv_len]), torch.tensor(starts or [0])
    inside = (keys < lengths[:, None]) & (keys >= starts[:, None])
    return mask[None, None] & inside[:, None, None]


@mark.parametrize("q_len, kv_len, expected", [(9, 9, 9), (9, 12, 9)], ids=["prefill", "static-cache"])
def test_no_mask_is_causal_from_the_first_key_on(q_len, kv_len, expected):
    assert read_visible(None, q_len, kv_len) == Visible(expected)


@mark.parametrize(
    "q_len, kv_len, offset", [(9, 9, 0), (4, 8, 4), (3, 12, 9), (4, 20, 6), (2, 50, 0)], ids=str
)
def test_causal_masks_say_where_the_keys_end(q_len, kv_len, offset):
    assert read_visible(causal(q_len, kv_len, offset), q_len, kv_len) == Visible(q_len + offset)


@mark.parametrize("lengths", [[9, 5], [9, 9, 1], [5, 9]], ids=str)
def test_padding_on_the_right_becomes_spans(lengths):
    mask = causal(9, 9, 0, lengths)
    assert read_visible(mask, 9, 9) == Visible(9, spans=tuple((0, length) for length in lengths))


@mark.parametrize("lengths", [[9, 9], [9, 5]], ids=["left", "both-sides"])
@mark.parametrize("starts", [[0, 3], [2, 1], [4, 0]], ids=str)
@mark.parametrize("window", [None, 2, 4], ids="window={}".format)
def test_padding_on_the_left_becomes_spans(starts, lengths, window):
    mask = causal(9, 9, 0, lengths, starts, window)
    assert read_visible(mask, 9, 9, window) == Visible(9, window, tuple(zip(starts, lengths, strict=True)))


@mark.parametrize("offset", [3, 11], ids="offset={}".format)
def test_padding_of_a_later_part_of_a_prompt(offset):
    mask = causal(9, 30, offset, [30, 30], [0, 7])
    assert read_visible(mask, 9, 30) == Visible(9 + offset, spans=((0, 9 + offset), (7, 9 + offset)))


@mark.parametrize("q_len, kv_len, offset", [(9, 9, 0), (4, 8, 4), (3, 12, 9), (4, 20, 6), (4, 6, 2)], ids=str)
@mark.parametrize("window", [1, 3, 5], ids="window={}".format)
def test_windows_are_read_with_and_without_a_cache(q_len, kv_len, offset, window):
    mask = causal(q_len, kv_len, offset, window=window)
    assert read_visible(mask, q_len, kv_len, window) == Visible(q_len + offset, window=window)
    assert read_visible(mask, q_len, kv_len, window + 1) == NOT_CAUSAL
    assert read_visible(None, q_len, kv_len, window) == NOT_CAUSAL


def test_a_sample_of_padding_alone():
    assert read_visible(causal(9, 9, 0, [9, 0]), 9, 9) == Visible(9, spans=((0, 9), (0, 0)))


def test_everything_else_is_told_apart():
    window = causal(9, 9, 0) & ~causal(9, 9, -4)
    prefix = causal(9, 9, 0) | (torch.arange(9) < 3)
    hole = causal(9, 9, 0).clone()
    hole[..., 6, 2] = False
    packed = causal(9, 9, 0).clone()
    packed[..., 5:, :5] = False
    full = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    additive = torch.zeros(1, 1, 9, 9)
    per_head = causal(9, 9, 0).expand(1, 2, 9, 9)
    for mask in (window, prefix, hole, packed, full, additive, per_head):
        assert read_visible(mask, 9, 9) == NOT_CAUSAL


def test_rows_are_compared_in_chunks(monkeypatch):
    monkeypatch.setattr(transformers_mask, "CHUNK_ELEMENTS", 40)
    mask = causal(9, 20, 11)
    assert read_visible(mask, 9, 20) == Visible(20)
    mask = mask.clone()
    mask[0, 0, 7, 3] = False
    assert read_visible(mask, 9, 20) == NOT_CAUSAL


def test_a_mask_is_read_once_until_it_changes(monkeypatch):
    reads = []
    read = transformers_mask._read
    monkeypatch.setattr(transformers_mask, "_read", lambda *call: reads.append(1) or read(*call))
    mask = causal(4, 8, 4)
    assert read_visible(mask, 4, 8) == read_visible(mask, 4, 8) == Visible(8)
    assert len(reads) == 1
    mask[..., 2, 1] = False
    assert read_visible(mask, 4, 8) == NOT_CAUSAL
