"""Readings: what a model makes of texts, each read once under a recipe and kept in a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from accel.files import Results
from accel.machine.versions import versions
from accel.recipe.files import recipe_data
from accel.recipe.recipe import DENSE, Recipe
from accel.tuning.language.texts import Reading, Sample, read
from accel.tuning.subject import fingerprint


class Readings:
    """The readings of one model; a folder may hold those of several.

    Args:
        model: of transformers, causal.
        folder: where they are kept; nothing else may write there.

    Raises:
        Mistake: if what the folder holds is damaged.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self.model = model
        self._results = Results(folder)
        self._model = fingerprint(model)

    def of(self, sample: Sample, recipe: Recipe = DENSE) -> Reading:
        key = self._key(sample, recipe)
        if key not in self._results:
            self._results.keep(key, asdict(read(self.model, sample, recipe)))
        return self._results.read(key, lambda kept: Reading(**{**kept, "found": tuple(kept["found"])}))

    def _key(self, sample: Sample, recipe: Recipe) -> str:
        places = [place.tolist() for place in (sample.tokens, sample.judged, *sample.answers)]
        data = {**recipe_data(recipe), "description": ""}
        about = [self._model, versions(), data, places]
        return Results.key("reading", about)
