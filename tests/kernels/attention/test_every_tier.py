"""What must hold of every tier that can run, on whatever the machine has: on a GPU by the hundred."""

import random
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from accel.kernels.attention.operation import attention_with_lse, block_sparse_attention
from accel.kernels.attention.tiers import cannot_run

gpu = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TIERS = [
    pytest.param("torch", torch.float32, 64, id="torch"),
    *(
        pytest.param(tier, dtype, dim, id=f"{tier}-{str(dtype)[6:]}-D{dim}", marks=gpu)
        for tier in ("triton", "hopper")
        for dtype in (torch.float16, torch.bfloat16)
        for dim in (64, 96, 128, 256)
    ),
    pytest.param("triton", torch.float32, 64, id="triton-float32-D64", marks=gpu),
]


def needs(tier, dtype, dim):
    device = "cpu" if tier == "torch" else "cuda"
    if tier != "torch" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if reason := cannot_run(tier, device, dtype, dim):
        pytest.skip(f"the {tier} tier {reason}")
    return device


def random_case(base_case, seed, tier, of=""):
    """Any shape, lists, masks and order that the tier takes. Seeds of one last digit, and of one test, share
    what kernels are compiled for: there is no time on a GPU to compile a hundred."""
    draw, sizes = random.Random(f"{of}{seed % 10}"), random.Random(seed)
    kv_heads, causal = draw.choice([1, 2, 4]), draw.random() < 0.4
    q_len, kv_len = sizes.randint(1, 700), sizes.randint(1, 900)
    lengths = (sizes.randint(0, kv_len), kv_len) if draw.random() < 0.3 else None
    tail = draw.random() < 0.3
    return base_case.with_(
        heads=4,
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        block=(128 if tier == "hopper" else draw.choice([64, 128]), draw.choice([16, 32, 64, 128])),
        density=sizes.choice([0.05, 0.2, 0.5, 1.0]),
        shared_lists=draw.random() < 0.2,
        causal=causal,
        kv_lengths=lengths,
        order=draw.choice([None, None, "shared", "heads"]),
        tail=tail,
        window=sizes.randint(2, 400) if causal and not tail and draw.random() < 0.3 else None,
        empty_row=sizes.random() < 0.3,
    )


@pytest.mark.parametrize("part", range(10), ids="part{}".format)
@pytest.mark.parametrize(("tier", "dtype", "dim"), TIERS)
def test_random_layouts_are_as_exact_as_eager(base_case, assert_exact, tier, dtype, dim, part):
    device = needs(tier, dtype, dim)
    for seed in range(part, 100 if device == "cuda" else 12, 10):
        case = random_case(base_case, seed, tier, of=f"{tier}{dtype}{dim}").with_(dim=dim)
        q, k, v = case.qkv(dtype, device, seed=seed + 1000)
        layout = case.layout(device, seed)
        # As much room for all lists: kernels are compiled anew for strides that 16 divides.
        room = (0, 61 - layout.kv_indices.shape[3])
        layout = replace(layout, kv_indices=pad(layout.kv_indices, room, value=1 << 20))
        result = attention_with_lse(q, k, v, layout, tier=tier)
        assert_exact(result, q, k, v, layout)


@pytest.mark.parametrize(("tier", "dtype", "dim"), TIERS)
def test_more_rows_than_run_at_once(base_case, assert_exact, tier, dtype, dim):
    """The longest lists go first then, and key blocks are of every length."""
    device = needs(tier, dtype, dim)
    columns = (16, 32, 64, 128) if device == "cuda" else (64,)
    rows = 2500 if device == "cuda" else 300
    for case in (base_case.with_(dim=dim, block=(128, n), q_len=rows, density=0.3) for n in columns):
        q, k, v = case.qkv(dtype, device)
        layout = case.layout(device)
        result = attention_with_lse(q, k, v, layout, tier=tier)
        assert_exact(result, q, k, v, layout)


@pytest.mark.parametrize(("tier", "dtype", "dim"), TIERS)
def test_a_call_repeated_gives_the_same_bits(base_case, tier, dtype, dim):
    device = needs(tier, dtype, dim)
    case = base_case.with_(dim=dim, block=(128, 64), q_len=700, kv_len=900, causal=True, tail=True)
    inputs = case.qkv(dtype, device)
    first, *others = (block_sparse_attention(*inputs, case.layout(device), tier=tier) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("tier", "dtype", "dim"), TIERS)
def test_keys_that_are_not_listed_may_be_anything(base_case, tier, dtype, dim):
    device = needs(tier, dtype, dim)
    case = base_case.with_(dim=dim, block=(128, 32), q_len=300, kv_len=900, shared_lists=True, density=0.2)
    q, k, v = case.qkv(dtype, device)
    layout = case.layout(device)
    expected = block_sparse_attention(q, k, v, layout, tier=tier)
    unlisted = ~layout.to_mask()[0, 0].any(0)
    assert unlisted.any()
    for anything in (torch.nan, torch.inf):
        k[:, :, unlisted], v[:, :, unlisted] = anything, anything
        assert torch.equal(block_sparse_attention(q, k, v, layout, tier=tier), expected)


@pytest.mark.parametrize(("tier", "dtype", "dim"), TIERS)
def test_huge_logits_stay_exact(base_case, assert_exact, tier, dtype, dim):
    """Scores of thousands, and rows of which all keys but one are as good as -inf."""
    device = needs(tier, dtype, dim)
    case = base_case.with_(dim=dim, block=(128, 64), q_len=150, kv_len=300, causal=True)
    q, k, v = case.qkv(dtype, device)
    q, layout = q * 60, case.layout(device)
    k[:, :, 7] *= 8
    result = attention_with_lse(q, k, v, layout, tier=tier)
    assert_exact(result, q, k, v, layout, slack=3.0)


@gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("budget", ["row", "layer"])
def test_planning_and_attention_can_be_captured(budget):
    """From q and k to the output in one CUDA graph: nothing waits for the device, and replays follow q."""
    from accel.policies.parts.scores import Strided
    from accel.policies.parts.selectors import TopK

    q, k, v = torch.randn(3, 1, 4, 2000, 64, device=DEVICE, dtype=torch.float16)
    must = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=DEVICE)

    def call():
        from accel.kernels.layout.layout import BlockLayout

        keep = TopK(0.3, budget).keep(Strided().mass(q, k, (128, 64)), must)
        return block_sparse_attention(q, k, v, BlockLayout.from_mask(keep, (128, 64), 2000, 2000))

    call(), call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    q.copy_(torch.randn_like(q))
    graph.replay()
    assert torch.equal(out, call())
