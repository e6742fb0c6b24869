"""The words of the demo's prompts: what each colour is, and how a caption is put together.

A prompt reads `a [small|big] COLOUR SHAPE MOTION [and a ...] over a BACKGROUND KIND background`. Objects and
backgrounds share no colour word: with shared words a model of this size swaps the two.
"""

from __future__ import annotations

Rgb = tuple[float, float, float]

OBJECT_COLOURS: dict[str, Rgb] = {
    "red": (0.92, 0.13, 0.14),
    "green": (0.17, 0.80, 0.25),
    "blue": (0.12, 0.36, 0.95),
    "yellow": (1.00, 0.88, 0.16),
    "orange": (1.00, 0.55, 0.10),
    "purple": (0.68, 0.25, 0.88),
    "cyan": (0.14, 0.85, 0.90),
    "white": (1.00, 1.00, 1.00),
}

BACKGROUND_TONES: dict[str, tuple[Rgb, Rgb]] = {
    "maroon": ((0.30, 0.04, 0.10), (0.46, 0.12, 0.20)),
    "forest": ((0.05, 0.25, 0.11), (0.14, 0.42, 0.20)),
    "navy": ((0.04, 0.09, 0.32), (0.13, 0.22, 0.52)),
    "mustard": ((0.44, 0.34, 0.06), (0.60, 0.48, 0.12)),
    "indigo": ((0.20, 0.07, 0.32), (0.33, 0.17, 0.47)),
    "gray": ((0.34, 0.34, 0.36), (0.52, 0.52, 0.54)),
    "black": ((0.01, 0.01, 0.01), (0.16, 0.16, 0.17)),
    "ivory": ((0.70, 0.67, 0.58), (0.82, 0.79, 0.70)),
}

SIZES: tuple[str, ...] = ("", "small", "big")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
MOTIONS: tuple[str, ...] = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "bouncing",
    "orbiting",
    "growing",
    "shrinking",
    "spinning",
)
BACKGROUND_KINDS: tuple[str, ...] = ("plain", "gradient", "striped", "checkered")
GRAMMAR: tuple[str, ...] = ("a", "and", "over", "background")


def vocabulary() -> list[str]:
    """Every word a caption can hold, each once, in the order their token ids follow."""
    phrases = (*GRAMMAR, *SIZES, *OBJECT_COLOURS, *SHAPES, *MOTIONS, *BACKGROUND_KINDS, *BACKGROUND_TONES)
    return list(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


def object_phrase(size: str, colour: str, shape: str, motion: str) -> str:
    """One object in words: `a big red circle moving left`; an empty size is left out."""
    return " ".join(word for word in ("a", size, colour, shape, motion) if word)


def caption(objects: list[str], background: str, kind: str) -> str:
    """The caption of a clip from the phrases of its objects and the two words of its background."""
    return f"{' and '.join(objects)} over a {background} {kind} background"
