import csv
import json

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from accel.kernels import reference
from bench_kernels import (
    RAGGED,
    TARGETS,
    Row,
    cases,
    competitors,
    inputs,
    main,
    ragged_share,
    random_layout,
)
from kernel_peers import PEERS, flex_mask


def test_rows_say_what_was_measured(tmp_path):
    out = tmp_path / "kernels.csv"
    main(out, shape=["1,2,200,16"], density=[0.5, 0.25], block=["64x32"], dtype="float32", repeats=1)
    rows = list(csv.DictReader(out.open()))
    assert [row["tier"] for row in rows] == ["torch"] * 3
    assert {row["ragged"] for row in rows} == {"False", "True"}
    assert all(float(row["error"]) < 1e-5 and 0 < float(row["density"]) <= 1 for row in rows)
    assert "torch" in json.loads(out.with_suffix(".json").read_text())["machine"]


def test_flex_attention_gets_the_same_mask():
    q, k, v = torch.randn(3, 1, 2, 200, 16)
    layout = random_layout(q, "64x32", 0.4, ragged=True)
    out = flex_attention(q, k, v, block_mask=flex_mask(layout))
    torch.testing.assert_close(out, reference.block_sparse_attention(q, k, v, layout))
    assert torch.equal(flex_mask(layout).to_dense().bool(), layout.listed)


@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
def test_random_layouts_keep_the_density_they_are_asked_for(ragged):
    layout = random_layout(torch.empty(1, 4, 8192, 1), "64x64", 0.25, ragged)
    assert float(layout.density) == pytest.approx(0.25, rel=0.1 if ragged else 1e-6)
    assert (layout.kv_num_blocks.unique().numel() > 1) == ragged


def test_a_cpu_has_one_competitor_and_the_others_say_why():
    q, k, v = torch.randn(3, 1, 2, 200, 16)
    calls, skipped = competitors(q, k, v, random_layout(q, "64x32", 0.4, ragged=False))
    assert list(calls) == ["torch"]
    assert set(skipped) == {"triton", "hopper", *PEERS} and all(skipped.values())


def test_causal_layouts_of_grouped_heads(tmp_path):
    out = tmp_path / "causal.csv"
    main(out, shape=["1,4/2,300,16,causal"], density=[0.4], block=["64x32"], dtype="float32", repeats=1)
    (row,) = csv.DictReader(out.open())
    assert float(row["error"]) < 1e-5 and float(row["density"]) == pytest.approx(0.4, abs=0.1)
    assert {target["met"] for target in json.loads(out.with_suffix(".json").read_text())["targets"]} == {None}


def test_flex_attention_gets_the_same_causal_mask():
    q, k, v = inputs("1,4/2,200,16,causal", torch.device("cpu"), torch.float32)
    layout = random_layout(q, "64x32", 0.4, ragged=True, causal=True)
    out = flex_attention(q, k, v, block_mask=flex_mask(layout), enable_gqa=True)
    torch.testing.assert_close(out, reference.block_sparse_attention(q, k, v, layout))


def test_every_target_is_measured_on_a_gpu():
    found = cases(None, None, torch.device("cuda"))
    assert found == [(target.shape, target.density) for target in TARGETS] + [RAGGED]


def test_ragged_lists_are_held_against_equal_ones():
    def row(ragged, rate):
        return Row("triton", RAGGED[0], "bfloat16", "128x128", ragged, RAGGED[1], 1.0, 1.0, 1.0, rate, 0.0)

    assert ragged_share([row(True, 0.72), row(False, 0.8), row(False, 0.5)]) == pytest.approx(0.9)
    assert ragged_share([row(True, 0.72)]) is None
