"""Imports point one way, and nothing here shadows anybody else's package."""

import ast
import subprocess
import sys
from pathlib import Path

from pytest import mark, skip

ROOT = Path(__file__).parents[1]
FOLDERS = {"kernels": "kernels", "patches": "patches", "accel.policies": "accel/policies", "accel": "accel"}
MAY_IMPORT = {
    "kernels": {"accel.kernels"},
    "patches": {"accel.patches"},
    "accel.policies": {"accel.policies", "accel.kernels", "accel.patches.grid", "accel.patches.context"},
    "accel": {"accel"},
}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports break under the top-level folders"
            names.add(node.module or "")
    return names


def sources(folder: str) -> list[Path]:
    return [path for path in (ROOT / FOLDERS[folder]).rglob("*.py") if "__pycache__" not in path.parts]


@mark.parametrize("area", MAY_IMPORT)
def test_area_imports_only_what_it_may(area):
    found = sources(area)
    assert found
    for path in found:
        ours = {name for name in imported_modules(path) if name.split(".")[0] == "accel"}
        wrong = {name for name in ours if not any(_inside(name, allowed) for allowed in MAY_IMPORT[area])}
        assert not wrong, f"{path} imports {wrong}"


def _inside(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


@mark.parametrize("area", MAY_IMPORT)
def test_nobody_imports_scripts_or_tests(area):
    for path in sources(area):
        assert not {name.split(".")[0] for name in imported_modules(path)} & {"scripts", "tests", "tiny"}, (
            path
        )


@mark.parametrize("folder", ["kernels", "patches", "recipes"])
def test_top_level_folders_are_no_packages(folder):
    assert not (ROOT / folder / "__init__.py").exists(), (
        "an importable top-level folder shadows other packages"
    )
    assert (ROOT / "accel" / folder / next((ROOT / folder).glob("*.*")).name).exists()


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_hugging_face_kernels_wins_from_the_repository_root():
    if not run("import importlib.util as u; print(u.find_spec('kernels').origin)").endswith("__init__.py"):
        skip("Hugging Face's kernels is not installed")
    assert run("import kernels; print(hasattr(kernels, 'get_kernel'))") == "True"


def test_libraries_import_from_the_repository_root():
    code = "from diffusers import WanPipeline; from transformers import LlamaForCausalLM; print('ok')"
    assert run(code) == "ok"


def test_libraries_import_without_hugging_face_kernels():
    code = (
        "import sys; sys.modules['kernels'] = None\n"
        "from diffusers import WanTransformer3DModel; from transformers import LlamaForCausalLM; print('ok')"
    )
    assert run(code) == "ok"


def test_importing_accel_imports_no_model_library():
    code = "import sys, accel; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    assert run(code) == "[]"


def test_importing_accel_changes_no_model_library():
    code = (
        "from diffusers.models import attention_dispatch as d\n"
        "r, n = d._AttentionBackendRegistry, d.AttentionBackendName\n"
        "from transformers import AttentionInterface as a\n"
        "state = lambda: (len(r._backends), r._active_backend, len(n), sorted(a()))\n"
        "before = state()\n"
        "import accel, accel.cli.app\n"
        "print(state() == before)"
    )
    assert run(code) == "True"
