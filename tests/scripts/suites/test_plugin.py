"""The plugin accelerates what another library's tests construct, and says what ran sparse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.suites.excuses import Excuse, excuses
from scripts.suites.rows import row_file
from scripts.suites.table import Run, failures, table

ROOT = Path(__file__).parents[3]
SUITE = """
import copy, time
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


def test_failures_and_late_tests_are_named(rows):
    assert rows["test_failing"]["outcome"] == "failed" and "as it should" in rows["test_failing"]["error"]
    assert rows["test_slow"]["outcome"] == "failed" and "not finished after 5 s" in rows["test_slow"]["error"]


def written(out, mode, **tests):
    rows = [
        {"test": test, "outcome": how, "sparse": sparse, "error": "E"}
        for test, (how, sparse) in tests.items()
    ]
    row_file(out, "diffusers", "hooks", mode).write_text("\n".join(map(json.dumps, rows)))


def test_only_what_passes_stock_is_asked_for(tmp_path):
    written(tmp_path, "stock", a=("passed", 0), b=("passed", 0), c=("failed", 0), d=("skipped", 0))
    written(tmp_path, "kept", a=("passed", 3), b=("failed", 1), c=("failed", 0), d=("skipped", 0))
    assert Run.read(tmp_path, "diffusers", "hooks", "kept").cells() == "1 of 2 | 1.00"
    assert list(table(tmp_path))[1:] == ["| diffusers | hooks | 2 | 1 of 2 | 1.00 | not run |  |"]
    assert list(failures(tmp_path, [])) == [("kept: b: E", False)]
    assert list(failures(tmp_path, [Excuse("b", ("kept",), "known")])) == [("kept: b: excused: known", True)]
    assert list(failures(tmp_path, [Excuse("b", ("sparse",), "known")])) == [("kept: b: E", False)]


def test_an_excuse_has_a_reason():
    with pytest.raises(ValueError, match="needs a reason"):
        Excuse("a", ("kept",), "")
    assert excuses() is not None
    assert Excuse("tests/a.py::*[eager]", ("kept",), "x").covers("tests/a.py::test_b[eager]", "kept")
