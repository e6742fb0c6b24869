"""The plugin accelerates what another library's tests construct, and says what ran sparse."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.suites.excuses import Excuse, excuses
from scripts.suites.rows import row_file, rows_of
from scripts.suites.run import Suite, failed
from scripts.suites.table import Run, failures, table

ROOT = Path(__file__).parents[3]
SUITE = """
import copy, time, unittest
from types import SimpleNamespace
import torch
from transformers import LlamaConfig, LlamaForCausalLM

def llama():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = LlamaConfig(vocab_size=20, **sizes)
    return LlamaForCausalLM(config).eval()

@torch.no_grad()
def test_forward():
    tokens = torch.arange(64)[None] % 20
    model = llama()
    assert torch.allclose(copy.deepcopy(model)(tokens).logits, model(tokens).logits, atol=1e-5)

@torch.no_grad()
def test_failing():
    llama()(torch.zeros(1, 64, dtype=torch.long))
    assert False, "as it should"

def test_slow():
    time.sleep(30)

def test_nothing():
    pass

class Text(unittest.TestCase):
    def setUp(self):
        self.model_tester = SimpleNamespace(seq_length=7)

    def test_length(self):
        assert self.model_tester.seq_length == 50
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    (folder / "test_it.py").write_text(SUITE)
    plugin = ["-p", "scripts.suites.plugin", "--accel=kept", "--accel-report=rows.jsonl", "--accel-seconds=5"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "test_it.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    written = map(json.loads, (folder / "rows.jsonl").read_text().splitlines())
    return {row["test"].partition("::")[2]: row for row in written}


def test_sparse_calls_are_counted_those_of_copies_too(rows):
    assert rows["test_forward"]["outcome"] == "passed"
    assert rows["test_forward"]["accelerated"] == ["LlamaForCausalLM", "LlamaModel"]
    assert rows["test_forward"]["sparse"] == 2
    assert rows["test_nothing"]["sparse"] == 0


def test_texts_become_several_blocks(rows):
    assert rows["Text::test_length"]["outcome"] == "passed"


def test_failures_and_late_tests_are_named(rows):
    assert rows["test_failing"]["outcome"] == "failed" and "as it should" in rows["test_failing"]["error"]
    assert rows["test_slow"]["outcome"] == "failed" and "not finished after 5 s" in rows["test_slow"]["error"]


def written(out, mode, **tests):
    rows = [
        {"test": f"tests/hooks/test_it.py::{test}", "outcome": how, "sparse": sparse, "error": "E"}
        for test, (how, sparse) in tests.items()
    ]
    file = row_file(out, "diffusers", "tests/hooks/test_it.py", mode)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_fails_stock_too_has_a_reason(tmp_path):
    written(tmp_path, "stock", b=("passed", 0), c=("failed", 0))
    written(tmp_path, "kept", a=("passed", 3), b=("failed", 1), c=("failed", 0), d=("skipped", 0))
    assert Run.read(tmp_path, "diffusers", "hooks", "kept", []).cells() == (1, 2, 1, 1, "67%")
    assert list(table(tmp_path, []))[2:] == [
        "| diffusers | hooks | 1 | 2 | 1 | 1 | 67% | not run |  |  |  |  |"
    ]
    id = "tests/hooks/test_it.py::"
    stock_too = (f"kept: {id}c: fails stock too", True)
    assert list(failures(tmp_path, [])) == [(f"kept: {id}b: E", False), stock_too]
    known = Excuse("*::b", ("kept",), "known")
    assert list(failures(tmp_path, [known])) == [(f"kept: {id}b: known", True), stock_too]
    assert not next(failures(tmp_path, [Excuse("*::b", ("sparse",), "known")]))[1]


def test_a_test_that_has_a_row_is_left_out_of_the_next_run(tmp_path):
    test = tmp_path / "tests" / "hooks" / "test_it.py"
    test.parent.mkdir(parents=True)
    test.write_text("def test_a(): pass\ndef test_b(): assert False\n")
    out = tmp_path / "rows"
    written(out, "stock", test_a=("skipped", 0))
    Suite(tmp_path, "diffusers", out, 60, "", time.monotonic() + 100).run(
        "tests/hooks/test_it.py", "stock", []
    )
    rows = rows_of(out, "diffusers", "stock", ("tests/hooks",))
    assert {name[-6:]: row["outcome"] for name, row in rows.items()} == {
        "test_a": "skipped",
        "test_b": "failed",
    }
    written(out, "kept", test_b=("failed", 0), test_c=("failed", 0))
    suite = Suite(tmp_path, "diffusers", out, 60, "", 0)
    assert failed(suite, "tests/hooks/test_it.py", "stock") == ["tests/hooks/test_it.py::test_c"]


def test_a_file_that_was_not_read_is_run_again(tmp_path, monkeypatch, capsys):
    unread = SimpleNamespace(returncode=pytest.ExitCode.INTERRUPTED)
    monkeypatch.setattr("scripts.suites.run.subprocess.run", lambda *_, **__: unread)
    Suite(tmp_path, "diffusers", tmp_path, 60, "", 0).run("tests/test_it.py", "stock", [])
    assert "did not run to its end" in capsys.readouterr().err and not list(tmp_path.rglob("*.done"))


def test_an_excuse_has_a_reason():
    with pytest.raises(ValueError, match="needs a reason"):
        Excuse("a", ("kept",), "")
    assert excuses() is not None
    assert Excuse("tests/a.py::*[eager]", ("kept",), "x").covers("tests/a.py::test_b[eager]", "kept")
