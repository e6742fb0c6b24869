"""Every command and snippet of README and docs runs: tutorials in full, the rest as far as it goes here."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import typer
from pytest import importorskip, mark

from documents import blocks_of, command, commands_of, snippets_of, standing_in

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
RUNNER = ROOT / "tests" / "support" / "documents.py"
# What the tutorials that run as they stand leave behind.
LEFT = {
    "first-video.md": ["circle.mp4", "circle-dense.mp4", "compared/report.html"],
    "will-it-pay.md": ["compared/demo.mp4"],
    "recipe.md": ["half-dense/report.html", "mine.yaml", "mine/report.html"],
    "tune.md": ["tuned/tuned.yaml", "tuned/tuned.html", "tuned/curve.json", "compared/report.html"],
    "own-method.md": [],
    "language-model.md": [],
    "many-prompts.md": ["videos/circle.mp4", "videos/square.mp4", "videos/manifest.jsonl"],
}
# Pages whose snippets run with stand-ins; tests/support/models/tiny_parallel.py runs the last one's.
SNIPPETS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/language-models.md",
    "docs/methods.md",
    "docs/tutorials/wan-24gb.md",
)
IN_PROCESSES = "docs/multi-gpu.md"
# A snippet is compiled and no more where it needs:
ONLY_COMPILED = {
    "from_single_file": "a GGUF file of gigabytes",
}
# A command gets as far as the sentence that says what is missing, so its options are right.
REFUSED = ("Wan-AI/", "black-forest-labs/", "accelerator", "smollm2", "in.mp4", "first.png")
# A command is parsed and no more where it takes minutes:
ONLY_PARSED = {
    "accel bench": "minutes on a GPU",
    "accel tune": "minutes; a tutorial has it",
    "accel inspect demo --probe": "a minute; tests/cli/test_tune.py runs it",
    "accel ui": "serves until it is stopped; tests/ui runs it",
    "accel complete": "a minute; a tutorial has it on the demo",
}
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "recipes/README.md")]
PAGES = [*OUTSIDE, *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent != TUTORIALS)]
# What else pages show as commands is not run: `make` and `pip` make the environment that runs the tests, and
# `torchrun` and `accelerate launch` need several processes (tests/patches/diffusers, tests/batch).


def run(page: Path, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "ACCEL_CHECK": "0"}
    code = [sys.executable, str(RUNNER), str(page)]
    return subprocess.run(code, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@mark.parametrize("page", LEFT)
def test_a_tutorial_runs_as_it_stands(page, tmp_path):
    done = run(TUTORIALS / page, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [name for name in LEFT[page] if not (tmp_path / name).exists()] == []


def test_every_tutorial_is_short():
    pages = sorted(TUTORIALS.glob("*.md"))
    assert len(pages) == 8 and max(len(page.read_text().splitlines()) for page in pages) < 90


def test_snippets_of_the_other_pages_run_on_the_demos(tmp_path):
    """In one process, which knows the names of the pages before."""
    snippets = [text for page in SNIPPETS for text in snippets_of(ROOT / page)]
    snippets = [text for text in snippets if not any(word in text for word in ONLY_COMPILED)]
    here = tmp_path / "page.md"
    here.write_text("".join(f"```python\n{standing_in(text)}```\n" for text in snippets))
    done = run(here, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_no_snippet_is_forgotten():
    run = {ROOT / page for page in (*SNIPPETS, IN_PROCESSES)} | {TUTORIALS / page for page in LEFT}
    assert {page for page in [*PAGES, *TUTORIALS.glob("*.md")] if snippets_of(page)} <= run


def test_every_command_of_the_pages_is_one(monkeypatch, tmp_path):
    """In one process: importing takes longer than refusing."""
    monkeypatch.chdir(tmp_path)
    lines = [
        line
        for page in [*PAGES, TUTORIALS / "wan-24gb.md"]
        for block in blocks_of(page)
        for line in commands_of(block)
    ]
    assert len(lines) > 12
    for line in lines:
        line = line.replace("--model ...", "--model Wan-AI/Wan2.1-T2V-1.3B-Diffusers").replace(
            "MODEL", "demo"
        )
        if any(line.startswith(start) for start in ONLY_PARSED):
            line += " --help"
        code, said = command(line)
        assert code == 0 or (code == 2 and any(word in said for word in REFUSED)), f"{line}: {code} {said}"
        assert "No such option" not in said and "no such option" not in said, said


def test_every_script_of_the_pages_is_one_and_has_its_options():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    found = re.findall(r"python -m (scripts[.\w]+)([^`\n#]*)", text)
    assert len({module for module, _ in found}) > 5
    for module, arguments in found:
        assert find_spec(module), module
        main = getattr(import_module(module), "main", None)
        if main is not None and "typer.run(main)" in Path(find_spec(module).origin).read_text():
            app = typer.Typer()
            app.command()(main)
            line = typer.main.get_command(app)
            line.make_parser(typer.Context(line)).parse_args(shlex.split(arguments))


def built(site: Path, *options: str) -> subprocess.CompletedProcess:
    """The site, built as `make docs` builds it."""
    importorskip("mkdocs", reason="MkDocs is not installed (the `docs` extra)")
    flags = re.search(r"mkdocs build (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "mkdocs", "build", *flags[1].split(), "--site-dir", str(site), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_site_builds(tmp_path):
    done = built(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "accelerate_model" in (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")


def test_a_link_that_leads_nowhere_stops_the_site(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Here\n[1](gone.md) [2](#gone) [3](other.md#gone) [4](other.md#there)\n")
    (docs / "other.md").write_text("# There\n")
    own = {"docs_dir": str(docs), "hooks": [], "plugins": [], "nav": ["index.md"]}
    (tmp_path / "mkdocs.yml").write_text(json.dumps({"INHERIT": str(ROOT / "mkdocs.yml"), **own}))
    done = built(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    warned = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert done.returncode == 1 and len(warned) == 4, done.stderr
    assert 'not included in the "nav"' in warned[0]
    assert not any("#there" in line for line in warned)


def test_the_site_has_every_page():
    """Where MkDocs is not installed, a page that is in no menu is found here."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"([\w./-]+\.md)", text))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= listed
    outside = {"index.md", "contributing.md", "changelog.md", "security.md", "recipes.md"}
    assert listed - pages == outside


def test_the_reference_names_what_there_is():
    names = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text(encoding="utf-8"), re.M)
    assert len(names) > 15
    for name in names:
        module, _, thing = name.rpartition(".")
        found = getattr(import_module(module), thing)
        assert found.__doc__, name
