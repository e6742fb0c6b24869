"""Where the embedded demo models are, and prompts and settings that suit them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class DemoSettings:
    """How the demo pipeline is called: pixels, frames, denoising steps, prompt tokens and frames a second."""

    height: int = 192
    width: int = 192
    num_frames: int = 33
    num_inference_steps: int = 8
    guidance_scale: float = 4.0
    max_sequence_length: int = 32
    fps: int = 12


DEMO_SETTINGS = DemoSettings()
