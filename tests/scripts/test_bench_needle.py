"""The needle bench: dense is its own measure, keeping everything costs nothing, dropping shows."""

import json

import torch
from pytest import approx, fixture, mark

import bench_needle
from accel import Recipe
from accel.generate import DENSE
from accel.load_language_model import load_language_model
from bench_needle import METHODS, Row, by_depth, hidden_states, measure, samples, table


@fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load_language_model("demo-llm", "cpu").model


@fixture(scope="module")
def data():
    return samples(300, 2, seed=0, device=torch.device("cpu"))


@fixture(scope="module")
def dense(model, data):
    return [hidden_states(model, sample) for sample in data]


def recipe(policy):
    return Recipe.model_validate({"rules": [{"match": "*", "policy": policy}]})


def test_dense_finds_the_needles_without_error(model, data, dense):
    row = measure(model, "dense", DENSE, data, dense)
    assert row.density == 1 and row.error == 0 and row.questions == 8 and row.length == 300
    assert row.accuracy >= 0.75 and 1 <= row.perplexity < 10


def test_a_method_that_keeps_everything_is_dense(model, data, dense):
    row = measure(model, "all", recipe(METHODS["antidiagonal (XAttention)"](1.0, 300)), data, dense)
    assert row.error < 1e-4 and row.accuracy == measure(model, "dense", DENSE, data, dense).accuracy


@mark.parametrize("method", METHODS)
def test_every_method_runs_and_drops_blocks(model, method):
    data = samples(800, 1, seed=0, device=torch.device("cpu"))
    dense = [hidden_states(model, sample) for sample in data]
    row = measure(model, method, recipe(METHODS[method](0.1, 800)), data, dense)
    assert row.density < 1 and row.error > 0 and 0 <= row.accuracy <= 1


def test_accuracy_by_depth_counts_each_needle_in_its_fifth():
    hit, depth = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.05, 0.15, 0.5, 1.0])
    assert by_depth(hit, depth) == (0.5, None, 1.0, None, 1.0)


def test_the_table_has_a_line_for_each_row():
    row = Row("hip", 300, 0.25, 4, 0.5, (0.5, None, 1.0, None, 1.0), 1.25, 0.125)
    lines = table([row, row]).splitlines()
    assert (
        len(lines) == 4 and lines[2] == "| hip | 300 | 0.250 | 0.500 | 0.50 - 1.00 - 1.00 | 1.250 | 0.1250 |"
    )


def test_main_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    path = tmp_path / "needle.json"
    arguments = ["--lengths", "200", "--densities", "0.5", "--samples", "1", "--methods", "a-shape"]
    arguments += ["--recipes", "llm-a-shape"]
    monkeypatch.setattr("sys.argv", ["bench_needle.py", *arguments, "--out", str(path)])
    bench_needle.main()
    rows = json.loads(path.read_text())
    assert [row["method"] for row in rows] == ["dense", "llm-a-shape", "a-shape"] and rows[0][
        "density"
    ] == approx(1)
    assert "| a-shape | 200 |" in capsys.readouterr().out
