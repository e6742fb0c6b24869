"""Dense lists every block."""

import torch

from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies import registered_policies
from accel.policies.dense import Dense
from accel.policies.parts.head_choice import SampledRows
from accel.policies.per_head import PerHead


def test_every_block_is_listed():
    q, k = torch.zeros(2, 4, 131, 8), torch.zeros(2, 2, 300, 8)
    layout = Dense(block_size=(64, 32)).layout(q, k, TokenGrid(1, 10, 30), Context())
    assert layout.density == 1
    assert layout.kv_num_blocks.shape == (1, 1, 3) and (layout.kv_num_blocks == 10).all()
    assert layout.to_mask().all()


def test_a_sequence_is_causal_alone_and_as_a_candidate_of_a_plan_by_head():
    q, k = torch.randn(1, 2, 70, 8), torch.randn(1, 2, 70, 8)
    expected = torch.ones(70, 70, dtype=torch.bool).tril()
    for policy in (Dense(block_size=(32, 16)), PerHead((Dense(), Dense()), SampledRows())):
        assert torch.equal(policy.layout(q, k, None, Context()).to_mask()[0, -1], expected)


def test_the_registry_knows_each_policy_by_its_method():
    for name, policy in registered_policies().items():
        assert policy.method == name
