import pytest
import torch

from accel.kernels.attention import alone
from accel.kernels.attention import gathered as gathered_attention
from accel.kernels.attention.gathered import block_sparse_attention


def test_every_case_is_as_exact_as_eager(case, assert_exact):
    q, k, v = case.qkv()
    layout = case.layout()
    assert_exact(block_sparse_attention(q, k, v, layout), q, k, v, layout)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_types(base_case, assert_exact, dtype):
    case = base_case.with_(causal=True, tail=True, density=0.3)
    q, k, v = case.qkv(dtype)
    layout = case.layout()
    out, lse = block_sparse_attention(q, k, v, layout)
    assert out.dtype == dtype and lse.dtype == torch.float32
    assert_exact((out, lse), q, k, v, layout)


@pytest.mark.parametrize("dim", [16, 80, 96, 128], ids="D{}".format)
def test_other_head_dims_and_scales(base_case, assert_exact, dim):
    case = base_case.with_(dim=dim, q_len=70)
    q, k, v = case.qkv()
    layout = case.layout()
    result = block_sparse_attention(q, k, v, layout, scale=0.2)
    assert_exact(result, q, k, v, layout, scale=0.2)


def test_strided_views(base_case, assert_exact):
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in base_case.qkv())
    layout = base_case.layout()
    assert_exact(block_sparse_attention(q, k, v, layout), q, k, v, layout)


def test_small_chunks_change_nothing(case, monkeypatch):
    q, k, v = case.qkv(torch.float64)
    layout = case.layout()
    whole = block_sparse_attention(q, k, v, layout)[0]
    monkeypatch.setattr(gathered_attention, "CHUNK_BYTES_PER_THREAD", 1)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], whole)


def test_keys_that_are_not_listed_are_not_read(base_case):
    q, k, v = base_case.with_(heads=2).qkv()
    layout = base_case.with_(shared_lists=True, density=0.1).layout()
    unlisted = ~layout.to_mask()[0, 0].any(0)
    assert unlisted.any()
    clean = block_sparse_attention(q, k, v, layout)[0]
    k[:, :, unlisted], v[:, :, unlisted] = torch.nan, torch.nan
    assert torch.equal(block_sparse_attention(q, k, v, layout)[0], clean)


def test_the_path_of_other_devices(case, monkeypatch):
    q, k, v = case.qkv(torch.float64)
    layout = case.layout()
    expected = block_sparse_attention(q, k, v, layout)[0]
    monkeypatch.setattr(gathered_attention, "_attend_on_cpu", gathered_attention._attend_anywhere)
    torch.testing.assert_close(block_sparse_attention(q, k, v, layout)[0], expected)


@pytest.fixture(params=["onednn", "onednn, two threads", "pytorch"])
def rows_alone(request, monkeypatch, one_thread):
    """Every row that has enough queries is attended to alone, by either of the two products."""
    monkeypatch.setattr(gathered_attention, "LONG_ROW", 1)
    if request.param == "pytorch":
        monkeypatch.setattr(alone, "onednn", lambda: None)
    elif request.param == "onednn, two threads":
        torch.set_num_threads(2)
    elif alone.onednn() is None:
        pytest.skip("this PyTorch has no product by oneDNN")


def test_rows_alone_are_as_exact_as_eager(case, assert_exact, rows_alone):
    q, k, v = case.qkv()
    layout = case.layout()
    assert_exact(block_sparse_attention(q, k, v, layout), q, k, v, layout)
    large = 40 * q
    assert_exact(block_sparse_attention(large, k, v, layout), large, k, v, layout, slack=3.0)


def test_values_of_any_size_and_logits_at_the_bound(base_case, assert_exact, rows_alone):
    q, k, v = base_case.with_(kv_len=700).qkv()
    layout = base_case.with_(kv_len=700).layout()
    q *= alone.MOST / alone.LOG2_E * 8 / (q.norm(dim=-1).max() * k.norm(dim=-1).max())
    for size in (1e-15, 1.0, 1e15):
        out, lse = block_sparse_attention(q, k, v * size, layout)
        assert_exact((out / size, lse), q, k, v, layout)


def test_a_row_without_what_is_not_finite_is_the_same_to_the_bit(base_case, rows_alone):
    case = base_case.with_(kv_heads=4, density=0.3)
    q, k, v = case.qkv()
    layout = case.layout()
    clean = block_sparse_attention(q, k, v, layout)[0]
    seen = layout.to_mask(2)[0, 1]
    key = int((seen.any(0) & ~seen.all(0)).nonzero()[0])
    reads = seen[:, key]
    k[0, 1, key, 3] = torch.nan
    found = block_sparse_attention(q, k, v, layout)[0]
    assert found[0, 1][reads].isnan().all() and torch.equal(found[0, 1][~reads], clean[0, 1][~reads])
    assert torch.equal(found[:, 2:], clean[:, 2:])
