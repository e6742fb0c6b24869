"""The wrapper of cuDNN's block-sparse attention, held against a stand-in that computes what its docs promise.

What needs the package is skipped where it is not installed, what needs a GPU everywhere else.
"""

import ast
import inspect
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch

pytest.importorskip("triton")

from accel.kernels.attention import tiers
from accel.kernels.attention.tiers import cannot_run, cannot_take, checked_tiers, choose_tier
from accel.kernels.cudnn import attention as cudnn
from accel.kernels.cudnn import tier as cudnn_tier
from accel.kernels.layout.layout import BlockLayout


def stand_in(
    q_tensor, k_tensor, v_tensor, q2k_block_index, block_sparse_num=None, block_sizes=None,
    q2k_block_nums=None, *, sparse_block_size=None, allow_empty_block_nums=False, softmax_scale=None,
    pack_gqa=None, layout="bhsd", kv_splits=1, use_clc=None,
):  # fmt: skip
    """Non-causal attention of square blocks; listed blocks have `block_sizes` keys; no block, 0 and -inf."""
    batch, heads, q_len, _ = q_tensor.shape
    kv_heads, kv_len, block = k_tensor.shape[1], k_tensor.shape[2], sparse_block_size
    kv_blocks = -(-kv_len // block)
    assert layout == "bhsd" and block in (64, 128) and pack_gqa is False and allow_empty_block_nums
    assert q2k_block_index.shape[:3] == q2k_block_nums.shape == (batch, heads, -(-q_len // block))
    assert q2k_block_index.dtype == q2k_block_nums.dtype == torch.int32
    assert q2k_block_index.is_contiguous() and q2k_block_nums.is_contiguous()
    assert all(x.stride(-1) == 1 and x.data_ptr() % 16 == 0 for x in (q_tensor, k_tensor, v_tensor))
    assert q2k_block_index.min() >= 0 and q2k_block_index.max() < kv_blocks, "all entries can be loaded"
    sizes = torch.full((kv_blocks,), block) if block_sizes is None else block_sizes.long()
    assert block_sizes is not None or kv_len % block == 0, "keys beyond the end are real"
    assert sizes.shape in ((kv_blocks,), (batch, kv_blocks))
    sizes = sizes.expand(batch, kv_blocks)
    seen = torch.zeros(batch, heads, q_len, kv_blocks * block, dtype=torch.bool)
    for b, h, m in torch.cartesian_prod(*map(torch.arange, q2k_block_nums.shape)).tolist():
        for slot in range(q2k_block_nums[b, h, m]):
            n = q2k_block_index[b, h, m, slot].item()
            assert sizes[b, n] > 0, "blocks without keys are not promised to work"
            seen[b, h, m * block : (m + 1) * block, n * block : n * block + sizes[b, n]] = True
    k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k_tensor, v_tensor))
    scores = (q_tensor @ k.transpose(-1, -2) * softmax_scale).masked_fill(~seen[..., :kv_len], -torch.inf)
    lse = scores.logsumexp(dim=-1)
    out = (scores - lse.nan_to_num(neginf=0.0)[..., None]).exp() @ v
    return {"o_tensor": out, "lse_tensor": lse.float()}


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(cudnn, "forward", lambda: stand_in)


CASES = {
    "square": {"block": (64, 64)},
    "square-128": {"block": (128, 128), "kv_len": 300},
    "doubled": {"block": (128, 64), "q_len": 200},
    "doubled-ends-early": {"block": (128, 64), "q_len": 190, "kv_len": 333},
    "whole": {"block": (64, 64), "q_len": 128, "kv_len": 192, "density": 1.0},
    "shared-lists": {"shared_lists": True, "block": (128, 64)},
    "empty-row": {"empty_row": True, "block": (128, 64)},
    "padded": {"kv_lengths": (203, 77)},
    "all-padding": {"kv_lengths": (150, 0), "block": (128, 64)},
    "order": {"order": "shared", "block": (128, 64)},
    "order-per-head": {"order": "heads", "q_len": 130},
}


@pytest.mark.parametrize("major", [9, 10, 12], ids="sm_{}0".format)
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_layouts_are_mapped_exactly(base_case, assert_exact, pretended, monkeypatch, changes, major):
    monkeypatch.setattr(cudnn, "on_nvidia", lambda device: (major, 0))
    case = base_case.with_(**changes)
    q, k, v = case.qkv()
    layout = case.layout()
    layout.kv_indices[layout.kv_num_blocks[..., None] <= torch.arange(layout.kv_indices.shape[3])] = 1 << 20
    result = cudnn.block_sparse_attention(q, k, v, layout)
    assert result[0].shape == q.shape
    assert_exact(result, q, k, v, layout)


def test_scales_and_views(base_case, assert_exact, pretended):
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in base_case.qkv())
    room = torch.empty(v.numel() + 1)
    shifted = room[1:].view(v.shape).copy_(v)
    layout = base_case.layout()
    result = cudnn.block_sparse_attention(q, k, shifted, layout, scale=0.3)
    assert_exact(result, q, k, v, layout, scale=0.3)


REFUSED = {
    "causal": (BlockLayout.full(300, 300, (128, 64), causal=True), "does not take causality"),
    "blocks": (BlockLayout.full(300, 300, (128, 32)), "128 x 128, 128 x 64, 64 x 64, got 128 x 32"),
}


@pytest.mark.parametrize(("layout", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_cannot_take_is_known_before_and_refused(layout, reason):
    assert reason in cannot_take("cudnn", layout)
    with pytest.raises(ValueError, match="the cudnn tier"):
        cudnn.block_sparse_attention(*torch.randn(3, 1, 1, 300, 64), layout)[0]


RUNS = {
    "hopper": ((9, 0), torch.float16, 96, None),
    "blackwell": ((10, 0), torch.bfloat16, 128, None),
    "blackwell-fp16": ((10, 3), torch.float16, 128, "does not take torch.float16"),
    "rtx50": ((12, 0), torch.bfloat16, 128, None),
    "rtx50-D64": ((12, 0), torch.bfloat16, 64, "takes head dims 128 here, not 64"),
    "ada": ((8, 9), torch.bfloat16, 128, "compute capability 9.0"),
}


@pytest.mark.parametrize(("capability", "dtype", "dim", "reason"), RUNS.values(), ids=RUNS.keys())
def test_where_it_runs(monkeypatch, capability, dtype, dim, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(cudnn_tier, "_not_installed", lambda: None)
    monkeypatch.setattr(tiers, "check_result", lambda *call: None)
    found = cannot_run("cudnn", "cuda", dtype, dim)
    assert found is None if reason is None else reason in found
    choice = choose_tier("cuda", dtype, dim)
    assert choice.name == "triton", "not before it has passed its check"


def test_it_needs_its_package(monkeypatch):
    def missing(name):
        raise PackageNotFoundError

    monkeypatch.setattr(cudnn_tier, "version", missing)
    cudnn_tier._not_installed.cache_clear()
    assert "pip install 'sparse-accel[cudnn]'" in cudnn_tier._not_installed()
    monkeypatch.setattr(cudnn_tier, "version", lambda name: "1.31.9")
    cudnn_tier._not_installed.cache_clear()
    assert "1.32 or later, got 1.31.9" in cudnn_tier._not_installed()
    cudnn_tier._not_installed.cache_clear()


def test_it_runs_only_once_checked():
    assert "cudnn" in checked_tiers()


def test_the_package_has_the_signature_of_the_stand_in():
    """Read from its source: importing it needs a GPU's libraries."""
    try:
        files = distribution("nvidia-cudnn-frontend").files
    except PackageNotFoundError:
        pytest.skip("nvidia-cudnn-frontend is not installed")
    (api,) = (f for f in files if str(f) == "cudnn/block_sparse_attention/api.py")
    functions = {
        node.name: node for node in ast.parse(api.read_text()).body if isinstance(node, ast.FunctionDef)
    }
    theirs = functions["block_sparse_attention_forward"].args
    ours = inspect.signature(stand_in).parameters.values()
    assert [a.arg for a in theirs.args] == [p.name for p in ours if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert [a.arg for a in theirs.kwonlyargs] == [p.name for p in ours if p.kind == p.KEYWORD_ONLY]
    assert "o_tensor=" in api.read_text() and "lse_tensor=" in api.read_text()
