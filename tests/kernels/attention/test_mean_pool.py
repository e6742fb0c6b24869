import pytest
import torch

from accel.kernels.attention.tail import mean_pool


@pytest.mark.parametrize("length", [1, 16, 47, 64], ids="N{}".format)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_means_of_blocks(length, dtype):
    tokens = torch.randn(2, length, 3, 8).to(dtype).transpose(1, 2)
    means = mean_pool(tokens, 16)
    assert means.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for block, mean in enumerate(means.unbind(2)):
        expected = tokens[:, :, block * 16 : (block + 1) * 16].to(means.dtype).mean(2)
        torch.testing.assert_close(mean, expected)
    assert means.shape[2] == -(-length // 16)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"rows >= 1, got .* and 0"):
        mean_pool(torch.randn(1, 1, 4, 4), 0)
    with pytest.raises(ValueError, match=r"got \(4, 4\)"):
        mean_pool(torch.randn(4, 4), 2)
