"""Picture: a small image in a terminal of 16 million colours, below the line that a progress bar is on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import TextIO

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console

COLUMNS, ROWS = 64, 18
LEAST_ROWS = 4
# A character shows two pixels: its upper half in the text's colour, its lower half in the background's.
UPPER_HALF = "\N{UPPER HALF BLOCK}"
UP, FIRST_COLUMN, PLAIN, ERASE_BELOW = "\x1b[{}A", "\r", "\x1b[0m", "\x1b[J"


@dataclass
class Picture:
    """The one image below the cursor's line, drawn over each time; the cursor stays on its line.

    Args:
        stream: of the terminal, standard error: progress bars are written there.
        columns, rows: characters it may take.
    """

    stream: TextIO
    columns: int
    rows: int
    drawn: bool = False

    @classmethod
    def of_terminal(cls) -> Picture | None:
        """None unless both standard streams are one terminal that shows the characters, the colours and a few
        rows. Rich looks at TERM, COLORTERM and NO_COLOR, and at the version of Windows."""
        if not (sys.stdout.isatty() and sys.stderr.isatty()):
            return None
        console = Console(file=sys.stderr)
        coloured = console.color_system == "truecolor" and not console.no_color
        rows = min(ROWS, console.height - 4)
        if not coloured or not console.encoding.startswith("utf") or rows < LEAST_ROWS:
            return None
        return cls(sys.stderr, min(COLUMNS, console.width - 1), rows)

    def draw(self, image: Image.Image) -> None:
        """Show an image as large as there is room."""
        lines = lines_of(ImageOps.contain(image.convert("RGB"), (self.columns, 2 * self.rows)))
        below = "".join(f"\n{FIRST_COLUMN}{line}" for line in lines)
        self.stream.write(f"{below}{UP.format(len(lines))}{FIRST_COLUMN}")
        self.stream.flush()
        self.drawn = True

    def erase(self) -> None:
        """Leave nothing of it."""
        if self.drawn:
            self.stream.write(ERASE_BELOW)
            self.stream.flush()
        self.drawn = False


def lines_of(image: Image.Image) -> list[str]:
    """An RGB image as lines of text, two rows of pixels a line; the last of an odd number is its own pair."""
    rows = np.asarray(image).tolist()  # [H][W][3]
    lines = []
    for upper, lower in zip_longest(rows[::2], rows[1::2]):
        runs = [(pair, len(list(same))) for pair, same in groupby(zip(upper, lower or upper, strict=True))]
        lines.append("".join(_run(*pair, count) for pair, count in runs) + PLAIN)
    return lines


def _run(upper: list[int], lower: list[int], count: int) -> str:
    colours = ";".join(map(str, (38, 2, *upper, 48, 2, *lower)))
    return f"\x1b[{colours}m{UPPER_HALF * count}"
