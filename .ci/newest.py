"""Runs the tests of the seams with the newest release of every dependency but torch.

pyproject.toml's ranges are ignored. One line says how it went; the tests' own output goes to
test.log in the environment's folder.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

SEAMS = ["tests/test_imports.py", "tests/apply", "tests/patches"]
SECONDS = 360
SHOWN = ["torch", "triton", "diffusers", "transformers", "accelerate", "peft"]
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL) (tests/\S+)")


def unbounded() -> list[str]:
    """Every dependency of pyproject.toml without its range; markers stay."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    return [re.sub(r"^([^<>=!~;]+)[^;]*", r"\1", requirement) for requirement in asked]


def install(folder: Path, torch: str, index: str) -> str:
    """Make the environment in `folder`, and return its Python. `index` has torch's CPU build, or is empty."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    cpu = ["--no-deps", "--retries", "0", "--index-url", index, torch]
    if not index or subprocess.run([*pip, *cpu], stderr=subprocess.DEVNULL).returncode:
        subprocess.run([*pip, torch], check=True)
    (folder / "constraints.txt").write_text(torch + "\n")
    newest = ["--upgrade", "--constraint", str(folder / "constraints.txt"), "setuptools", *unbounded()]
    subprocess.run([*pip, *newest], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--editable", "."], check=True)
    return python


def run_tests(python: str, log: Path) -> bool:
    """Run the seams' tests into `log`; whether they ended in time."""
    command = [python, "-m", "pytest", "-vv", "-n", "2", "--dist", "loadfile", *SEAMS]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as tests:
        try:
            return tests.wait(timeout=SECONDS) is not None
        except subprocess.TimeoutExpired:
            tests.terminate()
            return False


def versions(python: str) -> str:
    """The releases that were tested, for the line."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )
    found = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    return ", ".join(f"{name} {found[name]}" for name in SHOWN)


def summarise(log: Path, ended: bool, tested: str) -> bool:
    """Print the line, and the tests that break; whether everything holds."""
    outcomes = OUTCOME.findall(log.read_text())
    ran = [test for outcome, test in outcomes if outcome in ("PASSED", "FAILED", "ERROR")]
    broken = sorted({test for outcome, test in outcomes if outcome in ("FAILED", "ERROR")})
    good = bool(ran) and not broken
    count = f"{len(broken)} of {len(ran)} tests break" if broken else f"all {len(ran)} tests that ran hold"
    late = "" if ended else f", stopped after {SECONDS} s"
    print(f"newest releases: {'good' if good else 'NOT GOOD'}: {count}{late} ({tested}); {log}")
    for test in broken:
        print(f"  breaks: {test}")
    return good


def main(folder: Path, torch: str, index: str) -> int:
    python = install(folder, torch, index)
    log = folder / "test.log"
    return 0 if summarise(log, run_tests(python, log), versions(python)) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
