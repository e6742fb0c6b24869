"""Numbers as a reader wants them: as many digits as mean something, and a unit."""

from __future__ import annotations

import math

NOT_MEASURED = "not measured"


def seconds(value: float | None) -> str:
    """12.3 s, 1.23 s, 0.12 s, 12 ms."""
    if value is None:
        return NOT_MEASURED
    if value < 0.1:
        return f"{value * 1000:.2g} ms"
    return f"{value:,.0f} s" if value >= 100 else f"{value:.{1 if value >= 10 else 2}f} s"


def ratio(value: float | None) -> str:
    """2.10×."""
    return NOT_MEASURED if value is None else f"{value:.{1 if value >= 10 else 2}f}×"  # noqa: RUF001


def decibels(value: float) -> str:
    """32.4 dB, or "identical" for an infinite PSNR."""
    return f"{value:.1f} dB" if math.isfinite(value) else "identical"


def similarity(value: float) -> str:
    """SSIM: 0.9903; never rounded up to 1."""
    if value >= 1:
        return "1"
    return f"{value:.4f}" if value < 0.99995 else "> 0.9999"


def density(value: float | None) -> str:
    """0.25, and 0.083 below a tenth."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.{3 if value < 0.1 else 2}f}"


def small(value: float | None) -> str:
    """A fraction of any size to three significant digits: 0.0123, 1.2e-07."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.3g}" if value == 0 or value >= 1e-4 else f"{value:.1e}"


def signed(value: float) -> str:
    """Like `small`, with its sign, which 0 does not get."""
    return "0" if value == 0 else f"{'+' if value > 0 else '−'}{small(abs(value))}"  # noqa: RUF001


FILTERS = {each.__name__: each for each in (seconds, ratio, decibels, similarity, density, small, signed)}
