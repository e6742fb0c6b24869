"""Training-free block-sparse attention for loaded diffusers and transformers models."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
if not (_HERE / "kernels").is_dir() and (_HERE.parent / "kernels" / "layout.py").is_file():
    # A checkout without symbolic links (Windows): find kernels, patches and recipes beside this folder.
    __path__.append(str(_HERE.parent))

from accel.accelerate import accelerate_model, accelerated, restore_model, summary  # noqa: E402
from accel.recipe.files import load_recipe  # noqa: E402
from accel.recipe.recipe import Recipe  # noqa: E402

__all__ = ["Recipe", "accelerate_model", "accelerated", "load_recipe", "restore_model", "summary"]
