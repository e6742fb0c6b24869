"""Windows as block lists: exactly the window's keys are seen, and no block is read for nothing."""

import torch
from pytest import mark

from accel.sites.window_layout import BLOCK_SIZE, window_layout

CPU = torch.device("cpu")


@mark.parametrize("window", [1, 63, 64, 65, 300, 2000], ids="window={}".format)
@mark.parametrize("q_len, kv_len", [(1, 1), (700, 700), (129, 700), (1, 700), (128, 256)], ids=str)
def test_lists_are_the_blocks_that_some_query_sees(q_len, kv_len, window):
    layout = window_layout(q_len, kv_len, window, CPU)
    last = torch.arange(q_len)[:, None] + kv_len - q_len
    seen = (torch.arange(kv_len) <= last) & (torch.arange(kv_len) > last - window)
    assert torch.equal(layout.to_mask()[0, 0], seen)
    padded = torch.nn.functional.pad(seen, (0, -kv_len % BLOCK_SIZE[1], 0, -q_len % BLOCK_SIZE[0]))
    needed = padded.unflatten(0, (-1, BLOCK_SIZE[0])).unflatten(2, (-1, BLOCK_SIZE[1])).any(3).any(1)
    assert torch.equal(layout.listed[0, 0], needed)


def test_lists_are_as_long_as_the_window():
    assert window_layout(1_000_000, 1_000_000, 4096, CPU).kv_indices.shape[3] == 67
