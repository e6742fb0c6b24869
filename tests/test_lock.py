"""The lock files hold every dependency of pyproject.toml, within a range that is closed on both sides."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
DEV = [
    Requirement(text) for extra in ("dev", "docs", "ui") for text in PROJECT["optional-dependencies"][extra]
]


def pins(name: str) -> dict[str, str]:
    """Version by package of one lock file."""
    lines = (ROOT / ".ci" / name).read_text().splitlines()
    locked = [Requirement(line) for line in lines if not line.startswith("#")]
    found = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in locked}
    assert len(found) == len(locked), "a package is pinned twice"
    return found


@pytest.mark.parametrize("asked", RUNTIME + DEV, ids=lambda asked: asked.name)
def test_range_is_closed(asked):
    assert {clause.operator for clause in asked.specifier} == {">=", "<"}


@pytest.mark.parametrize("asked", RUNTIME + DEV, ids=lambda asked: asked.name)
def test_lock_holds_a_release_within_the_range(asked):
    pinned = pins("lock-dev.txt" if asked in DEV else "lock.txt").get(canonicalize_name(asked.name))
    assert pinned is not None, f"{asked.name} is not in the lock: run make lock"
    assert asked.specifier.contains(pinned), f"{asked.name} {pinned} is out of range: run make lock"


def test_the_demo_and_the_tests_run_on_the_same_releases():
    assert pins("lock.txt").items() <= pins("lock-dev.txt").items()
