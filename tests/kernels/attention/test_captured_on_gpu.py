"""CUDA graphs and torch.compile around attention: nothing waits for the device, replays follow inputs."""

import pytest
import torch

from accel.kernels.attention.operation import block_sparse_attention
from accel.kernels.attention.tiers import TIERS, cannot_run

KERNELS = [name for name in TIERS if cannot_run(name, "cpu", torch.bfloat16, 128) is not None]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=KERNELS)
def tier(request):
    if reason := cannot_run(request.param, "cuda", torch.bfloat16, 128):
        pytest.skip(f"the {request.param} tier {reason}")
    return request.param


def problem(base_case, seed=1, **changes):
    """Both layouts of a test have lists with the same room."""
    case = base_case.with_(dim=128, block=(128, 64), q_len=300, kv_len=500, **changes)
    return *case.qkv(torch.bfloat16, "cuda", seed), case.layout("cuda", seed)


@pytest.mark.parametrize("changes", [{}, {"causal": True, "tail": True}], ids=["plain", "causal-tail"])
def test_a_graph_follows_its_tensors_and_lists(base_case, tier, changes):
    q, k, v, layout = problem(base_case, **changes)
    for _ in range(2):
        block_sparse_attention(q, k, v, layout, tier=tier)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = block_sparse_attention(q, k, v, layout, tier=tier)
    *others, other = problem(base_case, seed=2, **changes)
    for ours, theirs in zip((q, k, v), others, strict=True):
        ours.copy_(theirs)
    layout.kv_indices.copy_(other.kv_indices)
    layout.kv_num_blocks.copy_(other.kv_num_blocks)
    graph.replay()
    assert torch.equal(out, block_sparse_attention(*others, other, tier=tier))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_one_graph_of_torch_compile(base_case, tier, mode):
    torch._dynamo.reset()
    q, k, v, layout = problem(base_case)

    @torch.compile(fullgraph=True, mode=mode)
    def compiled(q, k, v):
        return block_sparse_attention(q * 2, k, v, layout, tier=tier) + 1

    expected = block_sparse_attention(q * 2, k, v, layout, tier=tier) + 1
    for _ in range(3):
        torch.testing.assert_close(compiled(q, k, v), expected)
