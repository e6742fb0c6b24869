"""TokenGrid: how a token sequence maps to frames, rows and columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple


class Span(NamedTuple):
    """A video with a grid of its own, `start` tokens into a sequence: frame-major, then row-major."""

    start: int
    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.frames * self.height * self.width

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.tokens)

    @property
    def grid(self) -> TokenGrid:
        return TokenGrid(self.frames, self.height, self.width)


@dataclass(frozen=True)
class TokenGrid:
    """The true grid of one forward, read from the model's input and never from the token count.

    Video tokens are frame-major, then row-major: index = (frame * height + row) * width + column.

    Args:
        frames, height, width: tokens along each axis, after patchifying.
        text_tokens: text tokens in the same sequence.
        text_first: text before the video tokens; else after them.
        lead_tokens: tokens before all of these, such as history; policies keep them whole, as they do text.
        tail_tokens: tokens after all of these, such as reference images; kept whole too.
        spans: further videos among the lead tokens, such as references, in their order. Composed methods that
            score blocks, and stored masks, choose among theirs too; to every other method they are lead
            tokens like any.
        causal_frames: frames of a chunk where chunks are causal, each seeing itself and those before; 0 where
            every frame sees every other.
    """

    frames: int
    height: int
    width: int
    text_tokens: int = 0
    text_first: bool = False
    lead_tokens: int = 0
    tail_tokens: int = 0
    spans: tuple[Span, ...] = ()
    causal_frames: int = 0

    def __post_init__(self) -> None:
        others = (self.text_tokens, self.lead_tokens, self.tail_tokens)
        if min(self.frames, self.height, self.width) < 1 or min(others) < 0:
            raise ValueError(
                "frames, height and width must be at least 1, text_tokens, lead_tokens and tail_tokens at "
                f"least 0, got {self.frames}x{self.height}x{self.width} and {others}"
            )

        object.__setattr__(self, "spans", tuple(Span(*span) for span in self.spans))
        borders = [border for span in self.spans for border in (span.start, span.start + span.tokens)]
        if (
            borders != sorted(borders)
            or not 0 <= min(borders, default=0) <= max(borders, default=0) <= self.lead_tokens
        ):
            raise ValueError(
                f"spans must follow one another inside the {self.lead_tokens} lead tokens, got {self.spans}"
            )
        if self.causal_frames < 0 or (self.causal_frames and max(others)):
            raise ValueError(
                "frames are causal in chunks only in a sequence of video alone, got chunks of "
                f"{self.causal_frames} frames and other tokens {others}"
            )

    @property
    def frame_tokens(self) -> int:
        return self.height * self.width

    @property
    def causal_tokens(self) -> int:
        """Tokens of a chunk, 0 where chunks are not causal."""
        return self.causal_frames * self.frame_tokens

    @property
    def video_tokens(self) -> int:
        return self.frames * self.frame_tokens

    @property
    def tokens(self) -> int:
        return self.lead_tokens + self.video_tokens + self.text_tokens + self.tail_tokens

    @property
    def video_start(self) -> int:
        return self.lead_tokens + (self.text_tokens if self.text_first else 0)

    def halved(self, times: int) -> TokenGrid:
        """Rows and columns halved that often, rounded up."""
        side = 2**times
        return replace(self, height=-(-self.height // side), width=-(-self.width // side)) if times else self

    def __str__(self) -> str:
        lead = f"{self.lead_tokens} + " if self.lead_tokens else ""
        text = f" + {self.text_tokens} text" if self.text_tokens else ""
        tail = f" + {self.tail_tokens}" if self.tail_tokens else ""
        return f"{lead}{self.frames}x{self.height}x{self.width}{text}{tail}"
