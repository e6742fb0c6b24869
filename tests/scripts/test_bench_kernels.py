import csv
import json

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from accel.kernels import reference
from bench_kernels import competitors, flex_mask, main, random_layout


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


def test_a_cpu_has_one_competitor():
    q, k, v = torch.randn(3, 1, 2, 200, 16)
    assert list(competitors(q, k, v, random_layout(q, "64x32", 0.4, ragged=False))) == ["torch"]
