"""plain: text from recipes, models and files as a terminal may show it."""

from __future__ import annotations

import unicodedata

# Newlines and tabs are layout. Other controls (Cc), formats (Cf), halves (Cs) and breaks (Zl, Zp) could move
# the cursor, change the window's title, turn a line round or fail to be printed.
HARMLESS = frozenset("\n\t\u200c\u200d")
ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain(text: object) -> str:
    """The text with whatever a terminal would obey written as an escape: `\\x1b`, `\\u202e`, `\\ud800`."""
    return "".join(_shown(character) for character in str(text))


def _shown(character: str) -> str:
    if character in HARMLESS or unicodedata.category(character) not in ESCAPED:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()
