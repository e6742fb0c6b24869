import subprocess
import sys

import pytest
import torch

from accel.kernels.attention.operation import attention_with_lse, block_sparse_attention
from accel.kernels.attention.tiers import TIERS, cannot_run, choose_tier
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import TokenOrder


def qkv(batch=1, heads=2, kv_heads=2, q_len=100, kv_len=100, dim=32, **options):
    return tuple(
        torch.randn(batch, h, n, dim, **options)
        for h, n in ((heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))
    )


def test_a_cpu_gets_the_torch_tier_and_a_reason():
    choice = choose_tier("cpu", torch.float32, 64)
    assert choice.name == "torch" and choice.reason and choice.unsupported is None


def test_the_chosen_tier_computes_what_the_reference_does():
    q, k, v = qkv(kv_heads=1)
    layout = BlockLayout.full(100, 100, (64, 64), causal=True)
    out, lse = attention_with_lse(q, k, v, layout)
    expected, expected_lse = attention_with_lse(q, k, v, layout, tier="reference")
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout), expected)


@pytest.mark.parametrize("name", TIERS)
def test_a_tier_that_cannot_run_is_an_error(name):
    q, k, v = (x.to(torch.int32) for x in qkv())
    with pytest.raises(
        ValueError, match=f"the {name} tier cannot run this call: it does not take torch.int32"
    ):
        block_sparse_attention(q, k, v, BlockLayout.full(100, 100), tier=name)
    assert "int32" in cannot_run(name, "cuda", torch.int32, 64)


def test_a_call_that_no_tier_can_run_is_an_error():
    assert choose_tier("cpu", torch.int8, 64).unsupported == "the torch tier does not take torch.int8"
    with pytest.raises(ValueError, match=r"no tier .* torch\.int8"):
        block_sparse_attention(*(x.to(torch.int8) for x in qkv()), BlockLayout.full(100, 100))


def test_the_triton_tier_is_not_chosen_and_not_replaced_without_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert choose_tier("cuda", torch.bfloat16, 128).name == "torch"
    assert "PyTorch sees none" in choose_tier("cuda", torch.bfloat16, 128).reason
    with pytest.raises(ValueError, match="the triton tier cannot run this call: it needs a GPU, not cpu"):
        block_sparse_attention(*qkv(), BlockLayout.full(100, 100), tier="triton")


@pytest.mark.parametrize(
    ("capability", "dim", "name", "reason"),
    [((9, 0), 100, "triton", "any GPU"), ((8, 0), 64, "triton", "any GPU"), ((7, 5), 64, "torch", "8.0")],
    ids=["hopper-odd-dim", "ampere", "turing"],
)
def test_what_gpus_get(monkeypatch, capability, dim, name, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    choice = choose_tier("cuda", torch.bfloat16, dim)
    assert choice.name == name and reason in choice.reason and choice.unsupported is None
    assert "hopper" not in choice.reason
    assert (cannot_run("hopper", "cuda", torch.bfloat16, 128) is None) == (capability == (9, 0))


def test_a_negative_scale_is_an_error():
    with pytest.raises(ValueError, match="scale must be positive, got -1"):
        block_sparse_attention(*qkv(), BlockLayout.full(100, 100), scale=-1)


def test_an_unknown_tier_is_an_error():
    with pytest.raises(ValueError, match=r"tier must be one of .* got 'cuda'"):
        block_sparse_attention(*qkv(), BlockLayout.full(100, 100), tier="cuda")


FULL = BlockLayout.full(100, 100)
LISTS = BlockLayout.from_mask(torch.ones(3, 1, 1, 1, dtype=torch.bool), (128, 128), 100, 100)
LENGTHS = BlockLayout.full(100, 100, kv_lengths=torch.tensor([4, 5], dtype=torch.int32))
ORDER = BlockLayout.full(100, 100, q_order=TokenOrder(torch.arange(100).expand(1, 5, 100)))
REFUSED = {
    "rank": ([x[0] for x in qkv()], FULL, r"expected q \[B, H, M, D\] .* got \(2, 100, 32\)"),
    "values": ([*qkv()[:2], torch.randn(1, 2, 100, 16)], FULL, r"got .* and \(1, 2, 100, 16\)"),
    "dims": ([qkv(dim=16)[0], *qkv()[1:]], FULL, "agree in B and D"),
    "heads": (qkv(heads=3), FULL, "multiple of key heads, got 3 and 2"),
    "types": ([qkv()[0].double(), *qkv()[1:]], FULL, "one type, got torch.float64"),
    "devices": ([x.to("meta") for x in qkv()], FULL, "one device, got meta"),
    "gradients": (qkv(requires_grad=True), FULL, "no backward"),
    "lengths": (qkv(q_len=90), FULL, "for 100 queries and 100 keys, got 90 and 100"),
    "samples": (qkv(), LISTS, r"lists for \(3, 1\) samples and heads"),
    "kv_lengths": (qkv(), LENGTHS, "expected 1, got 2"),
    "order": (qkv(), ORDER, r"q_order is of \(1, 5\) samples and heads, expected 1 or 1"),
}


@pytest.mark.parametrize(("tensors", "layout", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_contradictions_are_named(tensors, layout, message):
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(*tensors, layout)


def test_a_cpu_call_imports_no_triton():
    code = (
        "import sys, torch\n"
        "from accel.kernels.attention.operation import block_sparse_attention\n"
        "from accel.kernels.layout.layout import BlockLayout\n"
        "before = set(sys.modules)\n"
        "block_sparse_attention(*torch.randn(3, 1, 1, 9, 8), BlockLayout.full(9, 9))\n"
        "print([m for m in set(sys.modules) - before if m.split('.')[0] == 'triton'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
