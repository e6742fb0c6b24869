"""The prompts of the policy benchmarks by number: the demo's own, then held-out ones."""

from __future__ import annotations

from typing import Any

from accel.demo.paths import DEMO_PROMPTS, DEMO_SETTINGS
from scripts.training.world.scene import sample_scene

FIRST_HELD_OUT = len(DEMO_PROMPTS)
SECOND_HELD_OUT = 16


def prompt_of(number: int) -> str:
    """Prompt `number`, from 0. From 8 on held out: what `training/world/draw.py --seed 8` draws, in order;
    from 16 on, 32 that `sample_scene` draws with seed 16.

    Raises:
        IndexError: if there are fewer prompts.
    """
    first = sample_scene(count=8, seed=FIRST_HELD_OUT).captions()
    return (*DEMO_PROMPTS, *first, *sample_scene(count=32, seed=SECOND_HELD_OUT).captions())[number]


def demo_settings(size: int = DEMO_SETTINGS["height"]) -> dict[str, Any]:
    """What the demo pipeline is called with for videos `size` pixels a side."""
    called = {name: value for name, value in DEMO_SETTINGS.items() if name != "fps"}
    return called | {"height": size, "width": size}
