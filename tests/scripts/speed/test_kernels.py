import json
import time

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from accel.kernels.attention import reference
from scripts.speed import kernels as bench_kernels
from scripts.speed.kernels import asked, competitors, main, measure
from scripts.speed.peers import PEERS, flex_mask
from scripts.speed.problems import Problem, error_of
from scripts.speed.targets import RAGGED, TARGETS, problems

CPU = torch.device("cpu")


def rows_of(out):
    return json.loads(out.read_text())["rows"]


def test_rows_say_what_was_measured(tmp_path):
    out = tmp_path / "kernels.json"
    main(out, ["1,2,200,16"], [0.5, 0.25], ["64x32"], ragged=True, dtype="float32", rounds=1)
    rows = rows_of(out)
    assert [row["tier"] for row in rows] == ["torch"] * 4
    assert {row["ragged"] for row in rows} == {False, True}
    assert all(row["error"] < 1e-5 and 0 < row["density"] <= 1 for row in rows)
    assert "torch" in json.loads(out.read_text())["machine"]


def test_rows_that_are_there_are_not_measured_again(tmp_path, monkeypatch):
    out = tmp_path / "kernels.jsonl"
    main(out, ["1,2,200,16"], [0.5], ["64x32"], rounds=1)
    before = out.read_text()
    monkeypatch.setattr(bench_kernels, "measure", lambda *_: pytest.fail("measured again"))
    main(out, ["1,2,200,16"], [0.5], ["64x32"], rounds=1)
    assert out.read_text() == before and not out.with_suffix(".json").exists()


@pytest.mark.parametrize("causal", [False, True], ids=["plain", "causal"])
@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
def test_flex_attention_gets_the_same_mask(ragged, causal):
    problem = Problem("1,4/2,200,16" + (",causal" if causal else ""), 0.4, "64x32", ragged)
    q, k, v = problem.qkv(CPU, torch.float32)
    layout = problem.layout(q)
    out = flex_attention(q, k, v, block_mask=flex_mask(layout), enable_gqa=True)
    torch.testing.assert_close(out, reference.block_sparse_attention(q, k, v, layout)[0])
    if not causal:
        assert torch.equal(flex_mask(layout).to_dense().bool(), layout.listed)


@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
def test_random_layouts_keep_the_density_they_are_asked_for(ragged):
    layout = Problem("1,4,8192,1", 0.25, "64x64", ragged).layout(torch.empty(1, 4, 8192, 1))
    assert float(layout.density) == pytest.approx(0.25, rel=0.1 if ragged else 1e-6)
    assert (layout.kv_num_blocks.unique().numel() > 1) == ragged


def test_causal_layouts_of_grouped_heads(tmp_path):
    out = tmp_path / "causal.json"
    main(out, ["1,4/2,300,16,causal"], [0.4], ["64x32"], dtype="float32", rounds=1)
    (row,) = rows_of(out)
    assert row["error"] < 1e-5 and row["density"] == pytest.approx(0.4, abs=0.1)


def test_a_cpu_has_two_competitors_and_head_dims_can_be_left_out():
    problem = Problem("1,2,200,16", 0.4, "64x32")
    assert list(competitors(problem, CPU, torch.float32, None, peers=True)) == ["torch", "flex_attention"]
    assert list(competitors(problem, CPU, torch.float32, ["torch:16", "triton:16"], False)) == ["torch"]
    assert list(competitors(problem, CPU, torch.float32, ["torch:128"], False)) == []
    assert set(bench_kernels.DENSE_PEERS) < set(PEERS)


@pytest.mark.parametrize("where", ["first head's start", "last head's end", "anywhere"])
@pytest.mark.parametrize("causal", [False, True], ids=["plain", "causal"])
def test_errors_are_seen_where_kernels_make_them(where, causal):
    problem = Problem("1,4/2,700,16" + (",causal" if causal else ""), 0.5, "128x64")
    q, k, v = problem.qkv(CPU, torch.float32)
    layout = problem.layout(q)
    out = reference.block_sparse_attention(q, k, v, layout)[0]
    assert error_of(out, q, k, v, layout) < 1e-5
    place = {"first head's start": (0, 0, 3), "last head's end": (0, 3, 699), "anywhere": (0, 1, 300)}[where]
    out[place] = torch.nan if where == "anywhere" else 9.0
    assert not error_of(out, q, k, v, layout) < 0.02


def test_a_wrong_result_has_no_speed():
    wrong = [Problem("1,2,200,16", 0.5, "64x32"), CPU, torch.float32]
    with pytest.raises(ValueError, match="wrong: its relative error is"):
        measure("torch", lambda q, k, v, layout: lambda: scaled_dot_product_attention(q, k, v), *wrong)
    with pytest.raises(ValueError, match="nan"):
        measure("torch", lambda q, k, v, layout: lambda: q * torch.nan, *wrong)


def test_without_a_dense_baseline_a_row_fails_and_the_others_go_on(tmp_path, monkeypatch):
    def dense_attention(q, k, v, causal):
        if q.shape[2] == 210:
            raise RuntimeError("no such kernel")
        return "SDPA", lambda: time.sleep(0.01)

    monkeypatch.setattr(bench_kernels, "dense_attention", dense_attention)
    out = tmp_path / "kernels.jsonl"
    main(out, ["1,2,210,16", "1,2,220,16"], [0.5], ["64x32"], rounds=1)
    first, second = (json.loads(line) for line in out.read_text().splitlines()[1::2])
    assert "no such kernel" in first["failed"] and second["rate"] > 0


def test_every_target_is_measured_on_a_gpu():
    found = asked(None, None, None, False, torch.device("cuda"))
    assert found == problems() and len(found) == len(set(found))
    for block in ("128x128", "128x64", "128x32"):
        assert {(t.shape, t.density) for t in TARGETS} <= {
            (p.shape, p.density) for p in found if p.block == block
        }
    assert {Problem(*RAGGED, "128x64", ragged) for ragged in (False, True)} <= set(found)
    assert str(found[0]) == "1,40,75600,128 0.25 128x64 equal"
