"""Form: a filled-in form, checked before any weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accel.cli import asked as checks
from accel.cli.asked import Asked
from accel.mistake import Mistake
from accel.recipe.recipe import Recipe
from accel.run.settings import GenerateSettings
from accel.tuning.target import Target

NUMBERS = {"height": int, "width": int, "frames": int, "steps": int, "seed": int, "density": float}
SIZES = {"height": "height", "width": "width", "frames": "num_frames", "steps": "num_inference_steps"}


@dataclass(frozen=True)
class Form:
    """Empty fields leave a choice to the model or the recipe.

    Args:
        density: of the recipe, in (0, 1].
        target: what to tune the recipe to first, such as "ssim>0.95".
    """

    prompt: str
    model: str = "demo"
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    steps: int | None = None
    seed: int = 0
    recipe: str = ""
    density: float | None = None
    target: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Form:
        """A form from what a page sends: empty fields are None, numbers may be of any type.

        Raises:
            Mistake: if a number is not one.
        """
        given: dict[str, Any] = {"prompt": ""}
        for name, value in values.items():
            kind = NUMBERS.get(name, str)
            if value is None or not str(value).strip():
                continue
            try:
                given[name] = kind(value)
            except (TypeError, ValueError, OverflowError):
                whole = "whole " if kind is int else ""
                raise Mistake(f"{name}: expected a {whole}number, got {value!r}") from None
        return cls(**given)

    def checked(self) -> Checked:
        """What is to be run.

        Raises:
            Mistake: if a field is wrong, or the model cannot take it.
        """
        if self.density is not None and self.target.strip():
            raise Mistake("a density or a quality target, not both: tuning to a target finds the density")
        model = self.model.strip() or "demo"
        loading = checks.loading_of({"model": model})
        chosen: dict[str, Any] = {"prompt": self.prompt, "seed": self.seed}
        chosen |= {
            name: value for field, name in SIZES.items() if (value := getattr(self, field)) is not None
        }
        settings = checks.settings_of(model, chosen)
        name, plan, _ = checks.planned(model, self.recipe.strip() or None, self._changes())
        target = Target.parse(self.target) if self.target.strip() else None
        asked = checks.asked_of(loading, settings)
        if target is not None and asked.makes_images:
            raise Mistake("a quality target is for videos")
        return Checked(asked, settings, name, plan.recipe, self.density is not None, target, self.command())

    def command(self) -> tuple[str, ...]:
        """The command line that does the same, for a request without a target."""
        words = ["accel", "compare", self.prompt, "--model", self.model.strip() or "demo"]
        for field in (*SIZES, "seed", "recipe"):
            value = getattr(self, field)
            words += [f"--{field}", str(value)] if value != getattr(Form, field) else []
        for change in self._changes():
            words += ["--set", change]
        return tuple(words)

    def _changes(self) -> list[str]:
        return [] if self.density is None else [f"density={self.density}"]


@dataclass(frozen=True)
class Checked:
    """A form that can be run.

    Args:
        changed: whether the recipe was changed from the one of its name.
        command: the words of a command line that does the same.
    """

    asked: Asked
    settings: GenerateSettings
    recipe_name: str
    recipe: Recipe
    changed: bool
    target: Target | None
    command: tuple[str, ...]
