"""What a batch of clips shows, before any pixel is drawn, and its captions."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scripts.training.world import words

# radius in shorter frame sides, lowest and highest, by the word in words.SIZES
RADII = torch.tensor([(0.12, 0.16), (0.07, 0.10), (0.19, 0.23)])
DICE_PER_OBJECT = 6


@dataclass(frozen=True)
class Scene:
    """B clips of two objects, the second of which may be absent; numbers are places in the tables of `words`.

    Args:
        present: bool, [B, 2].
        size, colour, shape, motion: int64, [B, 2].
        radius: float32, [B, 2], in shorter frame sides.
        dice: float32, [B, 2, 6], uniform in [0, 1): the random part of a motion.
        background, kind: int64, [B].
        pattern: float32, [B, 3], uniform in [0, 1): the random part of a background.
    """

    present: Tensor
    size: Tensor
    colour: Tensor
    shape: Tensor
    motion: Tensor
    radius: Tensor
    dice: Tensor
    background: Tensor
    kind: Tensor
    pattern: Tensor

    def to(self, device: torch.device | str) -> Scene:
        """The same scene with its tensors on `device`."""
        return Scene(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def captions(self) -> list[str]:
        """One caption a clip, in the grammar of `words`."""
        return [self._caption(clip) for clip in range(len(self.kind))]

    def _caption(self, clip: int) -> str:
        objects = [
            words.object_phrase(
                words.SIZES[self.size[clip, i]],
                list(words.OBJECT_COLOURS)[self.colour[clip, i]],
                words.SHAPES[self.shape[clip, i]],
                words.MOTIONS[self.motion[clip, i]],
            )
            for i in range(2)
            if self.present[clip, i]
        ]
        background = list(words.BACKGROUND_TONES)[self.background[clip]]
        return words.caption(objects, background, words.BACKGROUND_KINDS[self.kind[clip]])


def sample_scene(count: int, seed: int, *, one_object: float = 0.7) -> Scene:
    """`count` random clips, drawn on the CPU, the same for the same seed.

    The two objects of a clip differ in colour, and a spinning object is never a circle, which could not be
    seen to spin. `one_object` is the fraction of clips with a single object, in [0, 1].

    Raises:
        ValueError: if `count` is below 1 or `one_object` outside [0, 1].
    """
    if count < 1 or not 0 <= one_object <= 1:
        raise ValueError(f"need count >= 1 and one_object in [0, 1], got {count} and {one_object}")
    rng = torch.Generator().manual_seed(seed)

    def pick(table: object, *shape: int) -> Tensor:
        return torch.randint(len(table), (count, *shape), generator=rng)  # type: ignore[arg-type]

    def roll(*shape: int) -> Tensor:
        return torch.rand((count, *shape), generator=rng)

    size, colour, shape, motion = (
        pick(table, 2) for table in (words.SIZES, words.OBJECT_COLOURS, words.SHAPES, words.MOTIONS)
    )
    colours = len(words.OBJECT_COLOURS)
    colour[:, 1] = (colour[:, 0] + 1 + colour[:, 1] % (colours - 1)) % colours
    unseen_spin = (motion == words.MOTIONS.index("spinning")) & (shape == words.SHAPES.index("circle"))
    low, high = RADII[size].unbind(-1)
    return Scene(
        present=torch.stack([torch.ones(count, dtype=torch.bool), roll() >= one_object], 1),
        size=size,
        colour=colour,
        shape=torch.where(unseen_spin, words.SHAPES.index("square"), shape),
        motion=motion,
        radius=low + (high - low) * roll(2),
        dice=roll(2, DICE_PER_OBJECT),
        background=pick(words.BACKGROUND_TONES),
        kind=pick(words.BACKGROUND_KINDS),
        pattern=roll(3),
    )
