"""Tests of the Triton kernels that quantise; test_triton_quantise.py runs them interpreted or on a GPU."""

import os

import pytest
import torch

from accel.kernels.fp8 import operands as hopper_fp8_operands
from accel.kernels.fp8 import quantise as triton_quantise
from accel.kernels.fp8.quantise import operands

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter's bf16 dot is wrong.
DTYPE = torch.float16 if INTERPRETED else torch.bfloat16


@pytest.fixture(autouse=True)
def written(monkeypatch):
    """New tensors start as NaN. The interpreter's cast to e4m3 is wrong, so that it leaves it to PyTorch."""
    new_empty = torch.Tensor.new_empty

    def filled(tensor, *args, **kwargs):
        return new_empty(tensor, *args, **kwargs).fill_(torch.nan)

    monkeypatch.setattr(torch.Tensor, "new_empty", filled)
    if INTERPRETED:
        monkeypatch.setattr(triton_quantise, "E4M3", torch.float32)


def check(q, k, v, rows=128, scale=0.1):
    on_device = (x.to(DEVICE) for x in (q, k, v))
    found = operands(*on_device, rows, scale)._asdict()
    for name, expected in hopper_fp8_operands.operands(q, k, v, rows, scale)._asdict().items():
        ours = found[name].cpu()
        assert ours.shape == expected.shape, name
        if name == "shift":
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        elif expected.dtype == torch.float32:
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=0)
        else:
            ours, expected = ours.to(expected.dtype).float(), expected.float()
            assert torch.equal(ours.isnan(), expected.isnan()), name
            # Rotations are sums in another order, so that a number may fall on the other side of a half.
            share = (ours.nan_to_num() != expected.nan_to_num()).double().mean()
            assert share <= (0 if name == "v" else 1e-3), name


@pytest.mark.parametrize("dim", [64, 128], ids="D{}".format)
@pytest.mark.parametrize("kv_len", [9, 1200], ids="N{}".format)
def test_every_operand(base_case, kv_len, dim):
    case = base_case.with_(dim=dim, q_len=150, kv_len=kv_len, heads=2, kv_heads=1)
    q, k, v = case.qkv(DTYPE)
    check(q, k + 5, v * torch.rand(dim).to(DTYPE))


def test_strided_views_and_zeros(base_case):
    case = base_case.with_(heads=2, kv_heads=1, q_len=150, kv_len=50)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in case.qkv(DTYPE))
    q[:, 0], v[:, :, :, 3] = 0, 0
    check(q, k, torch.stack([v, v], dim=-1)[..., 0])


def test_what_is_not_finite_spoils_nothing_else(base_case):
    case = base_case.with_(heads=2, kv_heads=1, q_len=150, kv_len=50)
    q, k, v = case.qkv(DTYPE)
    q[0, 1, 7], k[0, 0, 9], v[1, 0, 3, 5] = torch.nan, torch.inf, -torch.inf
    check(q, k, v)
