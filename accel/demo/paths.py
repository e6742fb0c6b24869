"""Where the embedded demo models are, and prompts and settings that suit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

DEMO_VIDEO: Path = Path(__file__).parent / "shapes-wan"

DEMO_PROMPTS: tuple[str, ...] = (
    "a red circle bouncing over a navy striped background",
    "a purple circle moving down over a mustard striped background",
    "a big white square moving up over a forest plain background",
    "a big blue triangle shrinking over a ivory checkered background",
    "a small white circle moving left over a maroon plain background",
    "a orange square growing over a forest gradient background",
    "a big yellow star spinning over a black plain background",
    "a green square moving right over a gray checkered background",
)

# `accel tune demo` chooses on the first half (`sample_scene` with seed 102) and keeps the rest aside (101).
TUNING_PROMPTS: tuple[str, ...] = (
    "a big red triangle bouncing over a indigo striped background",
    "a big white square moving up and a green star bouncing over a forest checkered background",
    "a big orange square shrinking and a red circle shrinking over a navy gradient background",
    "a big cyan square moving down over a indigo checkered background",
    "a cyan star moving up over a gray striped background",
    "a big orange square orbiting over a indigo striped background",
    "a big green star spinning over a forest plain background",
    "a blue square moving down over a maroon plain background",
    "a small white circle bouncing and a big cyan square shrinking over a forest plain background",
    "a small yellow star orbiting over a indigo striped background",
    "a green star bouncing over a ivory plain background",
    "a small white triangle growing and a small blue circle moving left over a forest checkered background",
    "a small red star shrinking and a orange star moving down over a black plain background",
    "a big purple circle shrinking over a black striped background",
    "a yellow star moving up over a ivory gradient background",
    "a small orange circle moving right over a mustard checkered background",
    "a small green star moving right over a maroon checkered background",
    "a small cyan triangle moving up over a maroon plain background",
    "a big orange circle growing over a gray checkered background",
    "a small yellow star spinning and a small orange star moving right over a maroon gradient background",
)

# How the demo pipeline is called, by the names of `GenerateSettings`.
DEMO_SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "height": 192,
        "width": 192,
        "num_frames": 33,
        "num_inference_steps": 8,
        "guidance_scale": 4.0,
        "max_sequence_length": 32,
        "fps": 12.0,
    }
)
