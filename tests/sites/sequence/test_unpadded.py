"""A padded batch taken apart: what each part holds, and where its output goes."""

import torch
from pytest import mark

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.layout.layout import BlockLayout
from accel.patches.transformers.call import SequenceCall
from accel.patches.transformers.mask import Visible
from accel.sites.sequence.unpadded import Parts


def everything(part):
    return BlockLayout.full(part.q.shape[2], part.k.shape[2], (16, 16), causal=True)


def attend(part, layout):
    return block_sparse_attention(part.q, part.k, part.v, layout)


SPANS = {
    "left": ((0, 50), (13, 50)),
    "right": ((0, 50), (0, 31)),
    "both": ((4, 44), (0, 50)),
    "no-query": ((0, 50), (0, 9)),
    "one-mask": ((20, 50),),
}


@mark.parametrize("spans", SPANS.values(), ids=SPANS.keys())
@mark.parametrize("q_len", [50, 30], ids=["whole", "later-part"])
def test_parts_are_attended_to_as_under_the_mask(spans, q_len):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 16, generator=generator) for n in (q_len, 60, 60))
    visible = Visible(50, spans=spans)
    parts = Parts.of(SequenceCall(q, k, v, None), visible)
    layouts = parts.plan(everything)
    out = parts.join([attend(*each) for each in zip(parts.calls, layouts.each, strict=True)], q)

    starts, ends = torch.tensor(spans)[:, :, None, None].unbind(1)
    keys, last = torch.arange(60), torch.arange(q_len)[:, None] + 50 - q_len
    seen = ((keys <= last) & (keys >= starts) & (keys < ends)).expand(2, -1, -1)
    real = (last >= starts) & (last < ends)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
    torch.testing.assert_close(out, expected.where(real[:, None], 0.0), atol=1e-5, rtol=1e-5)
    assert float(layouts.density) == 1


def test_nothing_is_copied():
    q = k = v = torch.randn(2, 4, 50, 16)
    for spans in (None, ((0, 50), (13, 50))):
        for part in Parts.of(SequenceCall(q, k, v, None), Visible(50, spans=spans)).calls:
            assert part.k.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
