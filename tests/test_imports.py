"""Imports point one way, and nothing here shadows anybody else's package."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

from pytest import mark, skip

ROOT = Path(__file__).parents[1]
# A file may import its own room and those below: each line is a floor, the roof first. A room is a module,
# or a folder without what other lines name of it.
HOUSE = """
accel.__main__
accel.cli.commands.ui
accel.ui
accel.cli
accel.tuning
accel.batch accel.comparison
accel.run
accel
accel.accelerate
accel.apply
accel.sites
accel.load
accel.recipe accel.machine
accel.policies
accel.policies.decode
accel.policies.search
accel.policies.parts
accel.policies.policy
accel.noun
accel.recipe.errors
accel.patches.models
accel.patches.transformers accel.patches.diffusers.families
accel.patches.diffusers
accel.patches
accel.kernels.int8 accel.kernels.cudnn accel.kernels.decode accel.kernels.check
accel.kernels.hopper
accel.kernels.attention
accel.kernels.planning
accel.kernels.layout
accel.kernels
accel.demo accel.files accel.plain_text accel.version
accel.mistake
"""
FLOOR = {room: number for number, floor in enumerate(HOUSE.split("\n")) for room in floor.split()}
# What the floors alone would allow.
NEVER = {
    "accel.kernels": "accel.demo",
    "accel.patches": "accel.kernels",
    "accel.patches.transformers": "accel.patches.diffusers",
}
METHODS_KNOW_OF_MODELS = {"accel.patches.grid", "accel.patches.context", "accel.patches.head_share"}
FOLDERS = ("accel", "kernels", "patches")
MOST_FILES = 13


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports break under the top-level folders"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files_of(folder: str) -> list[Path]:
    links = {"__pycache__", *(FOLDERS if folder == "accel" else ())}
    found = (ROOT / folder).rglob("*.py")
    return [path for path in found if not links & set(path.relative_to(ROOT / folder).parts)]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "accel" else ("accel", *parts))
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for folder in FOLDERS for path in files_of(folder)}


def room_of(module: str) -> str:
    while module not in FLOOR:
        module = module.rpartition(".")[0]
    return module


def imports_of(module: str) -> set[str]:
    """The modules of ours that one imports, wherever in its file."""
    return {name for name in imported_modules(MODULES[module]) if name in MODULES and name != module}


@mark.parametrize("module", MODULES)
def test_a_module_imports_its_own_room_and_those_below(module):
    room = room_of(module)
    if module == "accel":
        return  # exports what is above it, when it is asked for
    for name in imports_of(module):
        below = room_of(name)
        assert below == room or FLOOR[below] > FLOOR[room], f"{module} imports {name}, which is not below it"
        wrong = [_inside(module, one) and _inside(name, other) for one, other in NEVER.items()]
        assert not any(wrong), f"{module} imports {name}"
        if _inside(module, "accel.policies") and _inside(name, "accel.patches"):
            assert name in METHODS_KNOW_OF_MODELS, f"{module} imports {name}"


def test_no_module_imports_itself_by_way_of_others():
    done: set[str] = {"accel"}

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' > '.join((*way, module))}"
        if module not in done:
            for name in imports_of(module):
                visit(name, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def _inside(name: str, allowed: str) -> bool:
    return name == allowed or name.startswith(allowed + ".")


@mark.parametrize("module", MODULES)
def test_nobody_imports_scripts_or_tests(module):
    assert not {name.split(".")[0] for name in imported_modules(MODULES[module])} & {
        "scripts",
        "tests",
        "tiny",
    }


def test_no_folder_is_a_drawer():
    """Rooms of more than a dozen files or so hold more than one idea."""
    held = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert max(held.values()) <= MOST_FILES, held.most_common(3)


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


@mark.parametrize(
    "kernels", ["", "import sys; sys.modules['kernels'] = None; "], ids=["kernels", "no-kernels"]
)
def test_libraries_import_from_the_repository_root(kernels):
    models = "from diffusers import WanPipeline; from transformers import LlamaForCausalLM; print('ok')"
    assert run(kernels + models) == "ok"


def test_importing_accel_imports_no_model_library():
    code = "import sys, accel; print(sorted({'diffusers', 'transformers'} & set(sys.modules)))"
    assert run(code) == "[]"


def test_importing_the_one_line_imports_no_model_library_no_compiler_and_no_method():
    heavy = (
        "'diffusers', 'transformers', 'torch._dynamo', 'filelock', 'safetensors', 'accel.policies.compose'"
    )
    code = f"import sys; from accel import accelerate_model; print(sorted({{{heavy}}} & set(sys.modules)))"
    assert run(code) == "[]"


def test_importing_the_one_line_imports_few_modules_beside_torch():
    code = (
        "import sys, torch; before = set(sys.modules); from accel import accelerate_model; "
        "print(*(name.partition('.')[0] for name in set(sys.modules) - before))"
    )
    found = Counter(run(code).split())
    assert found["accel"] <= 125, "a module of ours that a call does not need is imported at its first use"
    assert found.total() <= 220, found.most_common(5)


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


def test_recipes_and_methods_are_found_where_they_have_always_been():
    import accel
    from accel.policies import POLICIES
    from accel.recipe import Recipe, Rule

    assert (Recipe, Rule) == (accel.Recipe, accel.Rule) and "radial" in POLICIES
