"""Orders of prompts with images: by hand on eleven tokens, and against dense attention."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from accel.kernels.attention.reference import block_sparse_attention
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.compose import Composed
from accel.policies.parts.ordering.modalities import (
    Modalities,
    Strides,
    own_and_first,
    stride_and_phase,
)
from accel.sites.sequence.fixed_blocks import with_dense_queries
from causal_qkv import dense_causal, qkv

# Text, eight vision tokens with a word between them, text.
VISION = torch.tensor([[False, True, True, True, False, True, True, True, True, True, False]])


def composed(**fields):
    given = {"method": "compose", "score": {"kind": "pooled"}, "block_size": [16, 16], **fields}
    return TypeAdapter(Composed).validate_python(given)


def prompt(tokens, *images):
    vision = torch.zeros(2, tokens, dtype=torch.bool)
    for image in images:
        vision[:, image] = True
    vision[1, : tokens // 3] = False
    return vision


def test_vision_tokens_come_first_and_text_keeps_its_order():
    q_order, kv_order = Modalities().orders(None, None, VISION)
    assert q_order.indices.tolist() == [[[1, 2, 3, 5, 6, 7, 8, 9, 0, 4, 10]]]
    assert kv_order is q_order
    assert Modalities(keys=False).orders(None, None, VISION)[1] is None


def test_tokens_at_one_place_of_every_stride_follow_one_another():
    """The last vision token looks at the vision tokens 1, 4 and 7: a stride of three, from the second on."""
    q, k = torch.zeros(1, 2, 11, 4), torch.zeros(1, 1, 11, 4)
    q[..., 0] = 1
    k[:, :, [2, 6, 9], 0] = 9
    q_order, kv_order = Strides(longest=4, probes=1).orders(q, k, VISION)
    assert kv_order.indices.tolist() == [[[2, 6, 9, 3, 7, 1, 5, 8, 0, 4, 10]]]
    assert torch.equal(q_order.indices, kv_order.indices.expand(1, 2, 11))


def test_a_smooth_row_has_the_stride_of_its_waves_and_a_flat_one_none():
    waves = 1 + torch.cos(torch.arange(60) * 2 * torch.pi / 12 - 2 * torch.pi * 5 / 12)
    rows = torch.stack([waves, torch.ones(60)])[None, :, None]
    rows[..., 54:] = 7  # Text, of which nothing is read.
    stride, phase = stride_and_phase(rows, torch.tensor([[[54]]]), 40)
    assert stride.flatten().tolist() == [12, 1]
    assert phase.flatten().tolist()[0] == 5


def test_each_token_s_own_key_and_the_first_keys_are_kept():
    order, _ = Modalities().orders(None, None, VISION)
    keep = own_and_first((order, None), 11, (4, 4), 1, torch.device("cpu"))[0, 0]
    # Queries 1 2 3 5 | 6 7 8 9 | 0 4 10, keys in blocks of four.
    assert keep.int().tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 1]]


ORDERS = [{"kind": "modalities"}, {"kind": "modalities", "keys": False}, {"kind": "strides", "longest": 40}]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_every_block_is_dense_attention_and_fewer_see_no_future(order):
    q, k, v = qkv(150, 150)
    context = Context(vision=prompt(150, slice(10, 80), slice(85, 140)))
    every = composed(order=order, select={"kind": "top_k", "density": 1}).layout(q, k, None, context)
    torch.testing.assert_close(block_sparse_attention(q, k, v, every)[0], dense_causal(q, k, v))
    few = composed(order=order, always={"sink": 3}, select={"kind": "top_k", "density": 0.2})
    layout = few.layout(q, k, None, context)
    seen = layout.to_mask(2)
    assert not seen.triu(1).any() and seen.diagonal(dim1=2, dim2=3).all()
    assert seen[..., :3].tril().sum() == seen.shape[1] * 2 * (3 * 150 - 3)
    last = with_dense_queries(layout, 5).to_mask(2)
    assert (last[:, :, -5:] == torch.ones(150, 150).tril().bool()[-5:]).all()
    assert (last >= seen).all() and last.sum() < 1.6 * seen.sum()


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_blocks_are_cut_from_the_sequence_where_nobody_knows_what_is_text(order):
    q, k, _ = qkv(150, 150)
    select = {"kind": "top_k", "density": 0.3}
    plain = composed(select=select).layout(q, k, None, Context())
    for context, rows in ((Context(), 150), (Context(vision=prompt(40, slice(5, 30))), 40)):
        layout = composed(order=order, select=select).layout(q[:, :, -rows:], k, None, context)
        assert layout.q_order is layout.kv_order is None
        if rows == 150:
            assert torch.equal(layout.kv_indices, plain.kv_indices)


def test_text_alone_keeps_its_order():
    q, k, _ = qkv(60, 60)
    orders = Strides().orders(q, k, torch.zeros(2, 60, dtype=torch.bool))
    for order in orders:
        assert torch.equal(order.indices, torch.arange(60).expand_as(order.indices))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"always": {"recent": 3}}, "takes a score and a sink"),
        ({"score": None, "choose": {"kind": "vertical_slash"}}, "takes a score and a sink"),
    ],
)
def test_what_follows_the_sequence_is_refused(fields, message):
    select = {} if "choose" in fields else {"select": {"kind": "top_k", "density": 0.5}}
    with pytest.raises(ValidationError, match=message):
        composed(order={"kind": "modalities"}, **select, **fields)


def test_a_grid_is_refused():
    policy = composed(order={"kind": "modalities"}, select={"kind": "top_k", "density": 0.5})
    q = torch.zeros(1, 1, 8, 4)
    with pytest.raises(ValueError, match="'modalities' is for sequences without a grid"):
        policy.layout(q, q, TokenGrid(2, 2, 2), Context())
