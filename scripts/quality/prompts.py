"""The prompts of the policy benchmarks by number: the demo's own, then some that no setting was chosen on."""

from __future__ import annotations

from accel.demo.paths import DEMO_PROMPTS
from scripts.training.video.scene import sample_scene

FIRST_HELD_OUT = len(DEMO_PROMPTS)
SECOND_HELD_OUT = 16


def prompt_of(number: int) -> str:
    """Prompt `number`, from 0. From 8 on held out: what `training/video/world.py --seed 8` draws, in order;
    from 16 on, 32 that `sample_scene` draws with seed 16.

    Raises:
        IndexError: if there are not that many.
    """
    first = sample_scene(count=8, seed=FIRST_HELD_OUT).captions()
    return (*DEMO_PROMPTS, *first, *sample_scene(count=32, seed=SECOND_HELD_OUT).captions())[number]
