"""SiteSummary: the account of one site."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SiteSummary:
    """What the calls of one site did.

    Args:
        density: the mean of its sparse calls; None without any.
        in_force: False once something else has taken its place; restoring the model does not change it.
        phases: of a language model's prompts and of its decoding, the calls and their mean density, a dense
            call counting 1.
        shared_calls: calls that took over what the other pass of guidance had computed.
        residual: how often a residual was captured, applied, or not there to apply.
        residual_bytes: the most that one generation kept of residuals.
        work: of a dense call, as a share of one at the site of the model where it is most.
    """

    site: str
    method: str
    calls: int
    sparse_calls: int
    density: float | None
    dense_reasons: dict[str, int]
    in_force: bool
    phases: dict[str, tuple[int, float]] = field(default_factory=dict)
    shared_calls: int = 0
    residual: dict[str, int] = field(default_factory=dict)
    residual_bytes: int = 0
    work: float = 1.0
