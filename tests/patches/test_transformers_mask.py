"""What masks say, read from themselves: every pattern against the pattern it claims."""

import torch
from pytest import mark

from accel.kernels.layout import BlockLayout
from accel.patches import transformers_mask
from accel.patches.transformers_mask import NOT_CAUSAL, Visible, read_visible


def causal(q_len, kv_len, offset, lengths=None, starts=None):
    """Bool [B, 1, M, N]: query r sees the keys from starts[b] to r + offset, before lengths[b]."""
    keys = torch.arange(kv_len)
    mask = keys <= torch.arange(q_len)[:, None] + offset
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
def test_padding_on_the_right_becomes_lengths(lengths):
    mask = causal(9, 9, 0, lengths)
    visible = read_visible(mask, 9, 9)
    assert visible.kv_len == 9 and visible.kv_lengths.tolist() == lengths
    layout = BlockLayout.full(9, 9, (16, 16), causal=True, kv_lengths=visible.kv_lengths)
    assert torch.equal(layout.to_mask(len(lengths)), mask)


def test_everything_else_is_told_apart():
    left = causal(9, 9, 0, [9, 9], [0, 3])
    window = causal(9, 9, 0) & ~causal(9, 9, -4)
    prefix = causal(9, 9, 0) | (torch.arange(9) < 3)
    hole = causal(9, 9, 0).clone()
    hole[..., 6, 2] = False
    packed = causal(9, 9, 0).clone()
    packed[..., 5:, :5] = False
    full = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    additive = torch.zeros(1, 1, 9, 9)
    per_head = causal(9, 9, 0).expand(1, 2, 9, 9)
    for mask in (left, window, prefix, hole, packed, full, additive, per_head):
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
    monkeypatch.setattr(transformers_mask, "_read", lambda mask: reads.append(1) or read(mask))
    mask = causal(4, 8, 4)
    assert read_visible(mask, 4, 8) == read_visible(mask, 4, 8) == Visible(8)
    assert len(reads) == 1
    mask[..., 2, 1] = False
    assert read_visible(mask, 4, 8) == NOT_CAUSAL
