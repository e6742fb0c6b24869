"""TokenGrid: how a token sequence maps to frames, rows and columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

ALWAYS = 2**31 - 1


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


class Run(NamedTuple):
    """Tokens in a row that see and are seen alike: a query sees the keys whose first <= its tag <= last.

    Args:
        tokens: how many.
        tag: of their queries; below every `first`, they see nothing: the tokens are keys alone.
        first, last: the tags of the queries that see their keys.
    """

    tokens: int
    tag: int
    first: int
    last: int = ALWAYS

    @classmethod
    def chunk(cls, tokens: int, number: int) -> Run:
        """A chunk that itself and all later ones see."""
        return cls(tokens, number, number)

    @classmethod
    def keys(cls, tokens: int) -> Run:
        """Keys without queries, which all queries see."""
        return cls(tokens, -1, 0)

    @classmethod
    def padding(cls, tokens: int) -> Run:
        """Tokens that neither see nor are seen."""
        return cls(tokens, -1, ALWAYS, -ALWAYS)


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
        runs: who sees whom, of all tokens in their order; empty where every token sees every other.
    """

    frames: int
    height: int
    width: int
    text_tokens: int = 0
    text_first: bool = False
    lead_tokens: int = 0
    tail_tokens: int = 0
    spans: tuple[Span, ...] = ()
    runs: tuple[Run, ...] = ()

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
        # Runs of no tokens, such as padding where there is none, say nothing.
        runs = tuple(Run(*run) for run in self.runs if run[0])
        object.__setattr__(self, "runs", runs)
        if runs and (min(run.tokens for run in runs) < 0 or sum(run.tokens for run in runs) != self.tokens):
            raise ValueError(f"runs must add up to the {self.tokens} tokens of the grid, got {runs}")

    @property
    def frame_tokens(self) -> int:
        return self.height * self.width

    @property
    def hides(self) -> bool:
        """Whether some query that sees anything does not see every key."""
        sees = [[key.first <= query.tag <= key.last for key in self.runs] for query in self.runs]
        return any(any(row) and not all(row) for row in sees)

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
