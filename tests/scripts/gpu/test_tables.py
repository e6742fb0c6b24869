"""The page of the GPU check: targets are met, missed or not measured, and no number is made up."""

import json
import re

from pytest import fixture

from scripts.gpu import tables as gpu_tables
from scripts.gpu.found import NOT_MEASURED, Found
from scripts.gpu.tables import page
from scripts.speed.targets import MAIN, TARGETS

MACHINE = {"device": "NVIDIA H200", "torch": "2.11.0", "sources": "0123456789", "commit": "abcdef0123456789"}
ABOUT = {
    "device": "NVIDIA H200",
    "sources": "0123456789",
    "commit": "abcdef0123456789",
    "date": "2026-12-01T10:00",
}


def entry(*rows, status="passed", **rest):
    return {
        **ABOUT,
        "status": status,
        "rows": list(rows),
        "seconds": 1,
        "output": "",
        "arguments": [],
        **rest,
    }


def kernel(rate, density=0.25, tier="hopper", block="128x64", shape=MAIN, ragged=False):
    return {
        "key": f"{shape} {density} {block} {ragged} {tier}",
        "tier": tier,
        "shape": shape,
        "dtype": "bfloat16",
        "block_size": block,
        "ragged": ragged,
        "asked": density,
        "density": density,
        "dense": "cuDNN",
        "dense_ms": 169.0,
        "sparse_ms": 169.0 * density / rate,
        "times_faster": rate / density,
        "rate": rate,
        "error": 0.002,
    }


@fixture
def make(tmp_path):
    def make(**stages):
        path = tmp_path / "gpu.json"
        path.write_text(json.dumps({"machine": MACHINE, "stages": stages}))
        return path

    return make


def section(text, title):
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_with_nothing_measured_there_is_no_number(make):
    text = page(Found(make()))
    kernels = section(text, "Kernels against their targets")
    assert kernels.count(NOT_MEASURED) >= len(TARGETS) and "met |" not in kernels.replace("not met", "")
    for title in ("Planning", "Decoding", "A video transformer", "Other people's kernels", "All kernel rows"):
        assert not re.search(r"\d", section(text, title)) and NOT_MEASURED in section(text, title), title
    assert section(text, "Prompts").count(f"| {NOT_MEASURED} |\n") == 4


def test_targets_are_met_or_missed(make):
    rows = [kernel(0.96), kernel(0.85, block="128x128"), kernel(0.75, tier="triton"), kernel(0.94, 1.0)]
    text = section(page(Found(make(kernels=entry(*rows)))), "Kernels against their targets")
    lines = {tuple(line.split(" | ")[:2]): line for line in text.splitlines() if line.startswith("| ")}
    assert " 0.96 | hopper, 128x64 |" in lines[f"| {MAIN}", "0.25"]
    assert lines[f"| {MAIN}", "0.25"].endswith("| met |")
    assert lines[f"| {MAIN}, triton tier", "0.25"].endswith("| **missed** |")
    assert lines[f"| {MAIN}", "1"].endswith("| **missed** |")
    assert lines[f"| {MAIN}", "0.5"].endswith(f"| {NOT_MEASURED} |")


def test_ragged_lists_and_narrow_blocks(make):
    rows = [kernel(1.0, 0.2), kernel(0.97, 0.2, ragged=True), kernel(1.0), kernel(0.9, block="128x32")]
    text = section(page(Found(make(kernels=entry(*rows)))), "Kernels against their targets")
    assert "hopper: ragged lists, of the rate of equal ones: 0.97 (at least 0.95: met)" in text
    assert "hopper: key blocks of 32, as a share of the rate with 64: 0.9 (at least 0.95: **missed**)" in text
    assert f"triton: ragged lists, of the rate of equal ones: {NOT_MEASURED}" in text


def test_rounding_more_meets_no_target(make):
    rows = [kernel(0.9), {**kernel(1.35, tier="int8"), "error": 0.05}]
    text = section(page(Found(make(kernels=entry(*rows)))), "Kernels against their targets")
    assert f"| {MAIN} | 0.25 | 0.95 | 0.9 | hopper, 128x64 |" in text and "| **missed** |" in text
    assert "int8 at density 0.25, of the best rate in bfloat16: 1.5, error 0.05 against 0.002\n" in text
    assert f"int8 at density 0.1, of the best rate in bfloat16: {NOT_MEASURED}" in text


def test_what_failed_or_was_left_out_is_said(make):
    wrong = {"key": "x", "failed": "wrong: its relative error is 0.4"}
    stages = {
        "kernels": entry(kernel(0.9), wrong, status="failed", arguments=["--tier", "triton"]),
        "wan": entry(status="left out", reason="diffusers is not installed"),
        "prefill": entry(status="incomplete"),
        "options": entry(arguments=["--tier", "hopper"]),
        "first calls hopper": entry(),
        "tests hopper bfloat16 D128": entry(
            {"key": "test_a", "outcome": "failed", "reason": "E  error 0.5 > 0.1"},
            {"key": "test_b", "failed": "its process ended with exit status 1: it hung or crashed"},
            {"key": "test_c", "outcome": "passed"},
            status="failed",
        ),
        "sanitizer memcheck hopper": entry(status="failed", output="========= ERROR SUMMARY: 3 errors"),
    }
    text = page(Found(make(**stages)))
    assert "- x: wrong: its relative error is 0.4" in text
    assert f"{NOT_MEASURED} (diffusers is not installed)" in section(text, "A video transformer")
    assert "| tests hopper bfloat16 D128 | failed | 1 | 2 | 0 |" in text
    assert "- test_a: E  error 0.5 > 0.1" in text and "- test_b: its process ended" in text
    assert "**not clean** | ========= ERROR SUMMARY: 3 errors" in text
    rest = section(text, "What was left out")
    assert "- kernels: hopper was not timed: its first calls were not right" in rest
    assert "- options: hopper:128 was timed although its tests have not passed" in rest
    assert "- prefill: incomplete, 0 rows" in rest and "- decode: never run" in rest


def side(seconds, attention):
    rest = {"peak_bytes": 2**30, "density": 0.2, "dense_reasons": {}}
    return {"seconds": seconds, "attention_seconds": attention, **rest}


MODEL = {
    "shape": "llama-3.1-8b",
    "layers": 8,
    "dtype": "bfloat16",
    "tier": "triton",
    "dense_attention": "cuDNN",
    "tokens": 131072,
    "dense": side(10.0, 7.0),
    "accelerated": side(4.0, 1.0),
    "times_faster": 2.5,
    "attention_times_faster": 7.0,
    "recipe": "llm-quest",
}
ADDED = {"without_ms": 18.0, "with_ms": 19.5, "pooling_ms": 0.4, "added": 0.061}


def test_planning_options_and_language_models(make):
    problem = {"shape": MAIN, "block_size": "128x128", "density": 0.1, "dense_ms": 169.0}
    stages = {
        "planning": entry(
            {**problem, "key": "plan: a", "ms": 3.0, "share": 0.0178},
            {**problem, "key": "lists", "ms": 4.0, "share": 0.024},
        ),
        "options": entry({"key": "t", "tier": "hopper", "option": "tail", **problem, **ADDED}),
        "prefill": entry({"key": "p", **MODEL}),
        "decode": entry({"key": "d", **MODEL}),
    }
    text = page(Found(make(**stages)))
    assert "| plan: a | 3 | 1.78% | met |" in text and "| lists | 4 | 2.40% |  |" in text
    assert "| hopper | tail | 18 | 19.5 | 0.4 | 6.1% | **missed** |" in text
    assert "| 131,072 | 8 | 10 | 4 | 2.5 | 7 | 0.2 | 1.0 / 1.0 | 2 | met |" in text
    assert section(text, "Prompts").count(f"| {NOT_MEASURED} |\n") == 3
    assert "| llm-quest | 131,072 | 10000 | 4000 | 2.5 | 7000 | 1000 | 7 | met |" in text


def test_page_and_plot_are_written(make, tmp_path):
    out = tmp_path / "h200.md"
    gpu_tables.main(make(kernels=entry(kernel(0.9), kernel(0.95, 0.5))), out)
    text = out.read_text()
    assert (
        "NVIDIA H200" in text and "abcdef012345" in text and "2026-12-01" in text and "torch 2.11.0" in text
    )
    assert "(h200.svg)" in text and out.with_suffix(".svg").read_text().startswith("<svg")
