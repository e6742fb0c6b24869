"""Numbers: what the page's table says of a comparison, from its first run on."""

from __future__ import annotations

import math

from accel.comparison import Comparison
from accel.run.generate import Seconds

Row = tuple[str, str, str, str]
PARTS = {"attention": "attention", "transformer": "transformer", "total": "end to end"}


def numbers(
    dense: Seconds, fast: Seconds | None = None, found: Comparison | None = None, density: float | None = None
) -> tuple[Row, ...]:
    """Rows of a name, dense, accelerated and how much faster; then of a name and a score. As far as is known.

    Args:
        fast: of the accelerated run.
        found: the accelerated result against the dense one.
        density: of the accelerated run, in (0, 1], dense calls as 1.
    """
    rows = [_times(part, label, dense, fast) for part, label in PARTS.items()]
    if found is not None:
        rows += [
            _score("SSIM", found.quality.ssim, 4),
            _score("PSNR, dB", found.quality.psnr, 2),
            _score("latent error", found.latent_relative_error, 4),
            _score("density", density, 3),
        ]
    return tuple(rows)


def _times(part: str, label: str, dense: Seconds, fast: Seconds | None) -> Row:
    before = getattr(dense, part)
    if fast is None:
        return f"{label}, s", f"{before:.2f}", "", ""
    after = getattr(fast, part)
    return f"{label}, s", f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}x"


def _score(label: str, value: float | None, digits: int) -> Row:
    known = value is not None and math.isfinite(value)
    return label, "", f"{value:.{digits}f}" if known else "-", ""
