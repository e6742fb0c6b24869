"""The length sweep of HiP's search: every method is timed, and the table says by what its time grows."""

import json

from pytest import approx

from scripts.speed import hip as bench_hip


def test_every_method_and_length_is_measured(tmp_path):
    out = tmp_path / "hip.json"
    bench_hip.main(out, [256, 512], budget=64, repeats=1)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["method"], row["tokens"]) for row in rows] == [
        (name, tokens) for name in bench_hip.METHODS for tokens in (256, 512)
    ]
    assert all(row["seconds"] > 0 and 0 < row["density"] <= 1 for row in rows)


def test_a_method_over_the_limit_goes_no_further(tmp_path):
    out = tmp_path / "hip.json"
    bench_hip.main(out, [256, 512], budget=64, repeats=1, limit=0.0)
    assert {row["tokens"] for row in json.loads(out.read_text())["rows"]} == {256}


def test_the_table_shows_the_growth():
    name = next(iter(bench_hip.METHODS))
    rows = [{"method": name, "tokens": n, "seconds": s, "density": 0.1} for n, s in ((256, 0.5), (512, 1.25))]
    text = bench_hip.table(rows, {"device": "a device", "threads": 1, "repeats": 1}, 64)
    assert "| 512 | 1.25 (x 2.5) |" in text
    assert rows[1]["seconds"] / rows[0]["seconds"] == approx(2.5)
