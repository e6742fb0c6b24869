"""Training-free block-sparse attention for loaded diffusers and transformers models.

What is listed in `__all__` is imported when it is first used: `import accel` alone does not import PyTorch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.version import VERSION

if TYPE_CHECKING:
    from accel.accelerate import accelerate_model, accelerated, restore_model, summary
    from accel.policies.policy import Policy
    from accel.policies.registry import register_policy
    from accel.recipe.files import load_recipe
    from accel.recipe.recipe import Recipe, Rule
    from accel.tuning.search import tune

__version__ = VERSION

_HERE = Path(__file__).resolve().parent
if not (_HERE / "kernels").is_dir() and (_HERE.parent / "kernels" / "layout").is_dir():
    # A checkout without symbolic links (Windows): find kernels, patches and recipes beside this folder.
    __path__.append(str(_HERE.parent))

_SOURCES = {
    "Policy": "accel.policies.policy",
    "Recipe": "accel.recipe.recipe",
    "Rule": "accel.recipe.recipe",
    "accelerate_model": "accel.accelerate",
    "accelerated": "accel.accelerate",
    "load_recipe": "accel.recipe.files",
    "register_policy": "accel.policies.registry",
    "restore_model": "accel.accelerate",
    "summary": "accel.accelerate",
    "tune": "accel.tuning.search",
}

__all__ = [
    "Policy",
    "Recipe",
    "Rule",
    "accelerate_model",
    "accelerated",
    "load_recipe",
    "register_policy",
    "restore_model",
    "summary",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'accel' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_SOURCES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
