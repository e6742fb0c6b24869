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
