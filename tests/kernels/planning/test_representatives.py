import pytest
import torch

from accel.kernels.planning.representatives import ragged_mean


@pytest.mark.parametrize("length", [1, 16, 47, 64], ids="N{}".format)
@pytest.mark.parametrize("wide", [torch.float64, torch.float32], ids=str)
def test_means_of_blocks(length, wide):
    tokens = torch.randn(2, length, 3, 8).bfloat16().transpose(1, 2)
    means = ragged_mean(tokens, 2, 16, wide)
    assert means.dtype == wide
    for block, mean in enumerate(means.unbind(2)):
        expected = tokens[:, :, block * 16 : (block + 1) * 16].to(means.dtype).mean(2)
        torch.testing.assert_close(mean, expected)
    assert means.shape[2] == -(-length // 16)
