"""The sides and lengths that a family's pipelines refuse or round: known before anything is loaded."""

from __future__ import annotations

from accel.mistake import Mistake
from accel.patches.diffusers.family import FAMILIES
from accel.run.settings import MOST_FRAMES, GenerateSettings

# By family, or class: pixels of which height and width are multiples, where the pipelines refuse others. The
# rest round or resize.
SIDES = {
    **dict.fromkeys(
        ("wan", "hunyuan_video", "framepack", "cosmos", "kandinsky5", "easyanimate", "helios"), 16
    ),
    **dict.fromkeys(("sd3", "z_image", "CogView4Transformer2DModel", "ernie_image", "lumina2"), 16),
    **dict.fromkeys(("cogvideox", "mochi", "allegro", "unet"), 8),
    **dict.fromkeys(("ltx", "minimax_h3"), 32),
}
# Fewest and most frames, where the pipelines refuse others. MiniMax-H3: 5 to 15 seconds in chunks of 17.
FRAMES = {"minimax_h3": (108, 345)}


def require_sides(transformer: str, settings: GenerateSettings) -> None:
    """Refuse sides and lengths that the model's pipelines refuse.

    Raises:
        Mistake: names the nearest that are taken.
    """
    family = FAMILIES.get(transformer, "").rpartition(".")[2]
    fewest, most = FRAMES.get(family, (1, MOST_FRAMES))
    if settings.num_frames is not None and not fewest <= settings.num_frames <= most:
        raise Mistake(f"{transformer} makes {fewest} to {most} frames, got --frames {settings.num_frames}")
    side = SIDES.get(transformer, SIDES.get(family, 1))
    wrong = {
        name: value
        for name, value in (("--height", settings.height), ("--width", settings.width))
        if value is not None and value % side
    }
    if wrong:
        said = ", ".join(f"{name} {value}: {_nearest(value, side)}" for name, value in wrong.items())
        raise Mistake(f"sides of {transformer} are divisible by {side}; {said}")


def _nearest(value: int, side: int) -> str:
    below, above = value // side * side, -(-value // side) * side
    return f"take {below} or {above}" if below else f"take {above}"
