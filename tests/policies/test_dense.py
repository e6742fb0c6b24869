"""Dense lists every block."""

import torch

from accel.patches.context import Context
from accel.policies import registered_policies
from accel.policies.dense import Dense


def test_every_block_is_listed():
    q, k = torch.zeros(2, 4, 131, 8), torch.zeros(2, 2, 300, 8)
    layout = Dense(block_size=(64, 32)).layout(q, k, None, Context())
    assert layout.density == 1
    assert layout.kv_num_blocks.shape == (1, 1, 3) and (layout.kv_num_blocks == 10).all()
    assert layout.to_mask().all()


def test_the_registry_knows_each_policy_by_its_method():
    for name, policy in registered_policies().items():
        assert policy.method == name
