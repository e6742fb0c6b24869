"""The command line as a user calls it: what it prints, what it writes, how it refuses."""

import json
import os
import subprocess
import sys

from pytest import fixture, mark, raises

from accel.cli.app import main

SMALL = ["--height", "64", "--width", "80", "--frames", "9", "--steps", "3"]


def accel(*arguments: str, cwd=None, **changes: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from accel.cli.app import main; main()", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **changes}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=600)


@fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    done = accel(
        "generate", "a red circle moving right over a gray plain background", *SMALL, "--dense", "--set",
        "block_size=[16, 16]", "--output", "clip.mp4", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_generate_writes_both_videos(generated):
    folder, data = generated
    assert data["files"] == {"dense": "clip-dense.mp4", "accelerated": "clip.mp4"}
    for name in data["files"].values():
        assert (folder / name).read_bytes()[4:8] == b"ftyp"


def test_generate_says_what_it_took(generated):
    _, data = generated
    for run in ("dense", "accelerated"):
        seconds = data["seconds"][run]
        assert 0 < seconds["attention"] < seconds["transformer"] < seconds["total"]
    ratio = data["seconds"]["dense"]["total"] / data["seconds"]["accelerated"]["total"]
    assert data["times_faster"]["total"] == ratio
    account = data["summary"]
    assert 0 < account["sparse_density"] < 1 and not account["never_called"]
    reasons = account["dense_reasons"]
    assert reasons["first steps"] > 0 and sum(reasons.values()) < account["calls"]


@fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    done = accel("compare", *SMALL, "--floor", "--output", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout, done.stderr


def test_compare_writes_a_page_and_two_videos(compared):
    folder, _, _ = compared
    assert {path.name for path in folder.iterdir()} == {"demo.mp4", "demo-dense.mp4", "report.html"}
    page = (folder / "report.html").read_text()
    for part in (
        "noise floor",
        "other seed",
        "an mp4 of default quality",
        "Where it differs most",
        "SSIM",
        "first steps",
        "data:video/mp4;base64",
        "budget: layer",
    ):
        assert part in page, part


def test_compare_prints_scores_that_can_be_placed(compared):
    _, told, bars = compared
    for part in ("attention only", "end to end", "times faster", "accelerated against dense", "noise floor",
                 "other seed against dense", "latent relative error", "density",
                 "closer to the dense video than", "smaller than with"):  # fmt: skip
        assert part in told, part
    for part in ("1 of 5: warm-up", "2 of 5: dense", "3 of 5: accelerated, then ", "5 of 5: other seed"):
        assert part in bars, part


@fixture
def printed(monkeypatch, capsys):
    """Run the command line in this process; gives what it printed."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["accel", *arguments])
        monkeypatch.setenv("COLUMNS", "120")
        with raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        return capsys.readouterr().out

    return run


def test_recipes_list_show_and_schema(printed):
    assert "wan2.1-t2v-14b" in printed("recipes", "list")
    assert {row["name"] for row in json.loads(printed("recipes", "list", "--json"))} >= {"demo"}
    assert printed("recipes", "show", "demo").startswith("#")
    assert "rules" in json.loads(printed("recipes", "schema"))["properties"]


def test_a_published_plan_becomes_a_recipe_file(printed, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps([{"0": ["vertical_and_slash", 30, 800, 0.9], "1": ["stream_llm", 128, 64, 1]}])
    )
    (tmp_path / "mine.yaml").write_text(printed("recipes", "from-plan", str(plan)))
    assert printed("recipes", "validate", str(tmp_path / "mine.yaml")).strip().endswith("mine.yaml: ok")


def test_recipes_validate(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("rules: [{match: '*', policy: {method: radail}}]")
    done = accel("recipes", "validate", "demo", str(bad))
    assert done.returncode == 2 and "demo: ok" in done.stdout
    assert f"{bad}: rules[0].policy.method: unknown method 'radail'; did you mean 'radial'?" in done.stderr


def test_inspect_needs_no_weights(printed):
    data = json.loads(
        printed(
            "inspect",
            "demo",
            "--recipe",
            "radial",
            "--height",
            "192",
            "--width",
            "320",
            "--frames",
            "33",
            "--json",
        )
    )
    assert data["grid"] == {"frames": 9, "height": 24, "width": 40, "tokens": 8640}
    assert len(data["sites"]) == 8 and all(0 < site["density"] < 1 for site in data["sites"])
    text = printed("inspect", "demo", "--recipe", "wan2.1-t2v-1.3b")
    assert "8 of 8 follow the recipe" in text


def test_doctor_names_the_tier_and_why(printed):
    data = json.loads(printed("doctor", "--json"))
    assert data["tier"]["name"] and data["tier"]["reason"] and "torch" in data["versions"]
    assert data["tier"]["name"] in printed("doctor")


MISTAKES = {
    "empty folder": (["generate", "x", "--model", "."], "model_index.json"),
    "unknown recipe": (["generate", "--recipe", "demoo"], "did you mean 'demo'?"),
    "wrong override": (["generate", "--set", "dense_stps=1"], "did you mean 'dense_steps'?"),
    "override without value": (["generate", "--set", "decay"], "expected key.path=value"),
    "override out of range": (["generate", "--set", "dense_steps=3"], "less than or equal to 1"),
    "odd size": (["generate", "--height", "100", "--frames", "9"], "divisible by"),
    "unknown suffix": (["generate", "--output", "video.avi"], ".mp4"),
    "missing folder": (["generate", "--output", "no/such/video.mp4"], "does not exist"),
    "empty prompt": (["generate", " "], "prompt is empty"),
    "no prompt": (["generate", "--model", "elsewhere"], "a prompt is needed"),
    "inspect nothing": (["inspect", "no/such-model"], "neither 'demo' nor a folder"),
    "no such command": (["generat"], "No such command"),
    "bad option value": (["generate", "--steps", "0"], "--steps"),
}


@mark.parametrize("case", MISTAKES)
def test_mistakes_end_with_a_sentence_and_code_2(case, tmp_path, monkeypatch, capsys):
    arguments, expected = MISTAKES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["accel", *arguments])
    with raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and expected in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_a_mistake_leaves_the_process_with_code_2():
    done = accel("generate", "x", "--model", "no/such-model")
    assert done.returncode == 2 and "neither 'demo' nor a folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback():
    assert "Traceback" in accel("recipes", "show", "nope", ACCEL_DEBUG="1").stderr
