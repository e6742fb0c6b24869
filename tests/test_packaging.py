"""What is installed is the same from a tree with symbolic links and from one without: a zip, Windows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from pytest import fixture, importorskip

import accel
from accel.machine.versions import versions

ROOT = Path(__file__).parents[1]
LINKS = ("kernels", "patches", "recipes")
LIST_FILES = """
import json
from setuptools import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files()
build = distribution.get_command_obj("build_py")
build.ensure_finalized()
print(json.dumps(sorted(build.get_outputs(include_bytecode=False))))
"""
VERSION = """
from setuptools import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files()
print(distribution.get_version(), "torch" in __import__("sys").modules)
"""


def installed_from(folder: Path) -> set[str]:
    """The modules and data files that a wheel built in the folder holds."""
    importorskip("setuptools")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LIST_FILES], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {
        name.replace(os.sep, "/").partition("build/lib/")[2]
        for name in json.loads(done.stdout.splitlines()[-1])
    }


@fixture
def without_links(tmp_path) -> Path:
    """The tree as git writes it where there are no links: each is a text file that names its target."""
    for name in ("accel", *LINKS):
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=lambda folder, names: {
                each for each in names if each == "__pycache__" or (Path(folder) / each).is_symlink()
            },
        )
    for name in LINKS:
        (tmp_path / "accel" / name).write_text(f"../{name}")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_wheel_holds_the_same_files_with_and_without_links(without_links):
    linked, unlinked = installed_from(ROOT), installed_from(without_links)
    assert unlinked == linked
    for name in (
        "accel/cli/app.py",
        "accel/py.typed",
        "accel/comparison/report.html.j2",
        "accel/recipes/auto.yaml",
    ):
        assert name in linked, name


def test_a_wheel_has_the_version_that_the_code_says_it_has():
    """Read from the source: building a wheel imports nothing."""
    importorskip("setuptools")
    done = subprocess.run([sys.executable, "-c", VERSION], cwd=ROOT, capture_output=True, text=True)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert done.stdout.split() == [accel.__version__, "False"] and cited == accel.__version__, done.stderr
    assert versions()["sparse-accel"] == accel.__version__


def test_a_wheel_holds_every_file_of_the_packages():
    """A folder that pyproject.toml forgets is there in a checkout and missing from what is installed."""
    held = installed_from(ROOT)
    for folder, place in (("accel", "accel"), ("kernels", "accel/kernels"), ("patches", "accel/patches")):
        for path in (ROOT / folder).rglob("*.py"):
            if not any(part.is_symlink() for part in path.parents):
                assert f"{place}/{path.relative_to(ROOT / folder).as_posix()}" in held, path
    assert {path.name for path in (ROOT / "recipes").glob("*.yaml")} == {
        Path(name).name for name in held if name.startswith("accel/recipes/") and name.endswith(".yaml")
    }


def test_a_checkout_without_links_imports(without_links):
    code = "import accel, accel.kernels.layout.layout, accel.patches.grid; from accel import load_recipe\n"
    code += "print(load_recipe('radial').description != '', accel.kernels.__path__)"
    environment = {**os.environ, "PYTHONPATH": str(without_links)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=without_links, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("True"), done.stderr
