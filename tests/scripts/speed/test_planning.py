"""The benchmarks beside the kernels': every row is measured, and says of what."""

import pytest

from scripts.gpu import small_calls
from scripts.row_file import read_rows
from scripts.speed import language as bench_language
from scripts.speed import options as bench_options
from scripts.speed import planning as bench_planning


def test_every_stage_of_planning_is_held_against_dense(tmp_path):
    out = tmp_path / "planning.jsonl"
    bench_planning.main(out, shape="1,2,300,16", rounds=1)
    rows, lost = read_rows(out)
    assert not lost and all(row["ms"] > 0 and row["dense_ms"] > 0 for row in rows)
    assert sum(row["key"].startswith("plan: ") for row in rows) == 4
    assert all(row["share"] == pytest.approx(row["ms"] / row["dense_ms"], rel=0.05) for row in rows)


def test_options_are_held_against_the_plain_call(tmp_path):
    out = tmp_path / "options.jsonl"
    bench_options.main(out, shape="1,2,300,16", block="64x64", rounds=1)
    rows = {row["option"]: row for row in read_rows(out)[0]}
    assert set(rows) == {"tail", "one order", "an order for each head"}
    tail = rows["tail"]
    beyond = tail["with_ms"] - tail["without_ms"] - tail["pooling_ms"]
    assert tail["added"] == pytest.approx(beyond / tail["without_ms"], abs=0.05)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_language_models(tmp_path, kind):
    out = tmp_path / "rows.jsonl"
    bench_language.main(kind, out, shape="tiny", tokens=[96])
    rows = read_rows(out)[0]
    assert len(rows) == {"prefill": 1, "decode": 2}[kind]
    if kind == "decode":
        assert all("the decode budget covers the cache" in row["failed"] for row in rows)
    else:
        assert all(row["tokens"] == 96 and row["layers"] == 2 and row["times_faster"] > 0 for row in rows)


def test_calls_for_a_sanitizer_run_on_a_cpu_too(tmp_path):
    out = tmp_path / "rows.jsonl"
    small_calls.main(out, "torch")
    small_calls.main(out, "planning")
    rows = read_rows(out)[0]
    assert len(rows) == len(small_calls.CALLS) + 1 and not any("failed" in row for row in rows)
    assert all(row["outcome"] == "passed" and row["error"] < 0.02 for row in rows[:-1])
