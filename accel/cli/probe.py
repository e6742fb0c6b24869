"""What `accel inspect --probe` does: one dense generation that shows which layers and heads miss most."""

from __future__ import annotations

from typing import Any

from accel.cli import asked as checks
from accel.tuning.candidates import Candidate
from accel.tuning.profile import Profile, profile
from accel.tuning.subject import last_latents


def probe(model: str, chosen: dict[str, Any], block_size: tuple[int, int]) -> Profile:
    """The errors of a model's calls at every density, in one dense generation.

    Args:
        chosen: settings by name, as `accel generate` takes them.
        block_size: (query rows, key rows).
    """
    loading = checks.loading_of({"model": model})
    settings = checks.settings_of(model, {name: value for name, value in chosen.items() if value is not None})
    pipe = checks.asked_of(loading, settings).load()
    pipe.set_progress_bar_config(disable=True)
    family = Candidate(block_size)
    return profile(
        pipe,
        lambda: last_latents(pipe, settings),
        lambda density: family.recipe(density).rules[0].policy,
    )
