"""accel bench: sweeps of random weights of a named shape, as a table, CSV, JSON and a plot."""

import csv
import json
import xml.etree.ElementTree as ElementTree

import torch
from pytest import fixture, mark, raises
from typer.testing import CliRunner

from accel.cli.app import app
from accel.cli.commands.bench import bench_recipe
from accel.cli.length_plot import plot
from accel.run.bench_language import SHAPES, BenchRow, Measured, bench_decode, bench_prefill, random_model


@fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@fixture(scope="module")
def model():
    return random_model("tiny", 700, "cpu", torch.float32)


def row(tokens, dense, fast):
    return BenchRow(tokens, *(Measured(seconds, seconds / 2, None, 0.5, {}, 1) for seconds in (dense, fast)))


def invoke(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments, "--shape", "tiny", "--device", "cpu"])


def test_prefill_runs_dense_and_sparse_at_a_fixed_density(model):
    assert bench_recipe("prefill", "llm-hip", density=0.3).rules[0].policy.density == 0.3
    measured = bench_prefill(model, 600, bench_recipe("prefill"), repeats=1)
    assert measured.dense.density == 1 and measured.dense.dense_reasons == {"dense by recipe": 6}
    assert not measured.accelerated.dense_reasons and measured.accelerated.density > 0
    assert measured.accelerated.attention_seconds > 0 and measured.times_faster > 0
    assert model.config._attn_implementation == "sdpa"


def test_decode_reuses_one_cache_and_runs_sparse(model):
    decode = {"sink": 64, "window": 64, "budget": 64}
    small = [f"rules.0.policy.decode.{key}={value}" for key, value in decode.items()] + ["dense_layers=0"]
    recipe = bench_recipe("decode", changes=small)
    measured = bench_decode(model, 600, recipe, repeats=2)
    assert measured.accelerated.density < 0.5 and not measured.accelerated.dense_reasons
    assert measured.dense.dense_reasons == {"dense by recipe": 10}, "one token, two timed, two more"


@mark.parametrize("name", SHAPES)
def test_named_shapes_have_the_parameters_they_are_named_for(name):
    with torch.device("meta"):
        model = random_model(name, 8192, "meta", torch.bfloat16)
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    assert round(billions) == {"llama-3.1-8b": 8, "qwen3-8b": 8, "smollm2-135m": 0, "tiny": 0}[name]


def test_a_few_layers_of_a_shape():
    assert random_model("tiny", 64, "cpu", torch.float32, layers=1).config.num_hidden_layers == 1
    assert random_model("tiny", 64, "cpu", torch.float32, layers=9).config.num_hidden_layers == 2


def test_unknown_shapes_are_refused():
    with raises(ValueError, match=r"llama-3\.1-8b"):
        random_model("llama-9", 10, "cpu", torch.float32)


def test_the_plot_is_svg_with_a_point_for_each_length():
    tree = ElementTree.fromstring(plot("title", [row(1024, 1, 2), row(2048, 3, 2), row(4096, 9, 3)]))
    assert len(tree.findall(".//{*}circle")) == 12 and len(tree.findall(".//{*}polyline")) == 4
    texts = {text.text for text in tree.findall(".//{*}text")}
    assert {"dense", "accelerated", "whole model", "attention alone", "seconds", "1024"} <= texts
    dense = next(group for group in tree.iter() if group.get("class") == "curve dense" and len(group))
    high = [float(circle.get("cy")) for circle in dense.findall("{*}circle")]
    assert high[0] > high[1] > high[2], "dense takes longer with every length"
    with raises(ValueError, match="at least one"):
        plot("title", [])


def test_files_and_json_tell_the_same(tmp_path):
    paths = [tmp_path / f"sweep.{kind}" for kind in ("csv", "json", "svg")]
    files = [argument for path in paths for argument in ("--out", str(path))]
    result = invoke("prefill", "--lengths", "300,500", "--layers", "1", "--json", *files)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout.splitlines()[-1])
    assert data == json.loads(paths[1].read_text())
    assert data["layers"] == 1 and data["shape"] == "tiny"
    lines = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert [int(line["tokens"]) for line in lines] == [each["tokens"] for each in data["rows"]] == [300, 500]
    assert float(lines[0]["dense_seconds"]) == data["rows"][0]["dense"]["seconds"]
    assert paths[2].read_text().startswith("<svg")


def test_where_nothing_ran_sparse_no_speed_is_reported(tmp_path):
    files = [tmp_path / name for name in ("sweep.csv", "sweep.json", "sweep.svg")]
    result = invoke("decode", "--lengths", "300", *(f"--out={path}" for path in files))
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "300 tokens: nothing ran sparse, so there is no speed to report: " in said
    assert "times as fast" not in said
    assert json.loads(files[1].read_text())["rows"][0]["times_faster"] is None
    assert next(csv.DictReader(files[0].read_text().splitlines()))["times_faster"] == ""


def test_decode_table_names_its_columns():
    result = invoke("decode", "--lengths", "300", "--set", "rules.0.policy.decode.window=64")
    assert result.exit_code == 0, result.output
    assert "decode, tiny" in result.stdout and "300 tokens:" in result.stdout


@mark.parametrize(
    "arguments, message",
    [
        (["--lengths", "1k"], "numbers"),
        (["--lengths", "1"], "at least 2"),
        (["--out", "sweep.png"], r".csv, .json or .svg"),
        (["--out", "no-such-folder/sweep.csv"], "does not exist"),
        (["both"], "expected prefill or decode"),
        (["decode", "--density", "0.1"], "--density is for prefill"),
    ],
)
def test_mistakes_are_told_before_the_work(arguments, message):
    kind = [] if arguments[0] in ("decode", "both") else ["prefill"]
    result = invoke(*kind, *arguments)
    assert isinstance(result.exception, ValueError) and message in str(result.exception)
