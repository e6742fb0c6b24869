"""`accel tune` and `accel inspect --probe` as a user calls them, on the embedded demo at a tiny size."""

import json
import sys

from pytest import fixture, raises

from accel.cli.app import main
from accel.recipe.files import load_recipe

SMALL = ["--height", "64", "--width", "80", "--frames", "9", "--steps", "4"]


@fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle moving right\na blue square growing\n")
    return ["--prompts", str(file)]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["accel", *arguments])
    with raises(SystemExit) as ended:
        main()
    return ended.value.code


def measured(folder):
    found = json.loads((folder / "results.json").read_text())
    assert found.pop("seconds") > 0
    return found


def test_tune_writes_a_recipe_and_a_page_and_runs_nothing_twice(prompts, tmp_path, monkeypatch, capsys):
    wanted = ["tune", "demo", *SMALL, *prompts, "--block", "16x16", "-o", str(tmp_path)]
    assert run(monkeypatch, *wanted, "--target", "latent_error<0.3") == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "%" in line[:5]]
    assert "dense: prompt 1 of 2" in lines[0] and "a dense generation takes" in lines[1]
    assert "reached" in said.out and "held out: " in said.out
    recipe = load_recipe(tmp_path / "tuned.yaml")
    assert recipe.rules[0].policy.block_size == (16, 16)
    page = (tmp_path / "tuned.html").read_text()
    assert page.count('<video src="data:video/mp4') == 2 and 'class="heat"' in page
    results = measured(tmp_path)
    assert run(monkeypatch, *wanted, "--target", "latent_error<0.3") == 0
    assert measured(tmp_path) == results
    assert run(monkeypatch, *wanted, "--target", "latent_error<0.0000001") == 2
    assert "cannot be reached here: the best result is" in capsys.readouterr().err
    assert load_recipe(tmp_path / "best.yaml").rules


def test_probe_shows_where_it_hurts(monkeypatch, capsys):
    assert run(monkeypatch, "inspect", "demo", "--probe", *SMALL, "--json") == 0
    places = json.loads(capsys.readouterr().out)["where_it_hurts"]
    errors = [place["error"] for place in places]
    assert len(places) == 20 and errors == sorted(errors, reverse=True) and errors[0] > 0
    assert places[0]["site"].startswith("transformer.blocks.")
