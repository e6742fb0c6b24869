"""Summary: one account of a patch: site, policy, calls, density, and every dense reason with its count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from accel.apply.notices import chosen_backends
from accel.apply.patch import Patch
from accel.apply.seated import Seated


@dataclass(frozen=True)
class SiteSummary:
    """One site.

    Args:
        density: the mean of its sparse calls; None without any.
        phases: of a language model's prompts and of its decoding, the calls and their mean density, a dense
            call counting 1.
        shared_calls: calls that took over what the other pass of guidance had computed.
        residual: how often a residual was captured, applied, or not there to apply.
        residual_bytes: the most that one generation kept of residuals.
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


@dataclass(frozen=True)
class Summary:
    """The account of everything that was accelerated together. Readable as text and as a dict.

    Args:
        untouched: sites that no rule matches.
        step_source: what denoising steps are counted by; empty if there are none.
        forwards: forwards of the models since; 0 for language models, which are not counted. A cache that
            leaves blocks out makes fewer calls of them than there are forwards times sites.
        dense_backend: the attention backend chosen since then for dense calls; empty if there was no choice.
    """

    sites: tuple[SiteSummary, ...]
    untouched: tuple[str, ...]
    step_source: str
    forwards: int
    dense_backend: str

    @property
    def calls(self) -> int:
        return sum(site.calls for site in self.sites)

    @property
    def density(self) -> float | None:
        """Mean density of all calls, dense ones counting 1: the attention work done, as a share of dense."""
        if not self.calls:
            return None
        dense = sum(site.calls - site.sparse_calls - site.shared_calls for site in self.sites)
        work = dense + sum(site.sparse_calls * (site.density or 0) for site in self.sites)
        return work / self.calls

    @property
    def sparse_density(self) -> float | None:
        """Mean density of the sparse calls alone."""
        sparse = sum(site.sparse_calls for site in self.sites)
        return (
            sum(site.sparse_calls * (site.density or 0) for site in self.sites) / sparse if sparse else None
        )

    @property
    def phases(self) -> dict[str, tuple[int, float]]:
        """Calls of a language model's prompts and of its decoding, and their density; dense ones count 1."""
        total: dict[str, tuple[int, float]] = {}
        for site in self.sites:
            for phase, (calls, density) in site.phases.items():
                before, mean = total.get(phase, (0, 0.0))
                total[phase] = before + calls, (before * mean + calls * density) / (before + calls)
        return total

    @property
    def dense_reasons(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for site in self.sites:
            total.update(site.dense_reasons)
        return dict(total.most_common())

    @property
    def shared_calls(self) -> int:
        return sum(site.shared_calls for site in self.sites)

    @property
    def residual(self) -> dict[str, int]:
        """How often residuals were captured, applied, or not there to apply."""
        total: Counter[str] = Counter()
        for site in self.sites:
            total.update(site.residual)
        return dict(total)

    @property
    def residual_bytes(self) -> int:
        """The most bytes of residuals that one generation kept, all sites together."""
        return sum(site.residual_bytes for site in self.sites)

    @property
    def never_called(self) -> tuple[str, ...]:
        return tuple(site.site for site in self.sites if not site.calls)

    def to_dict(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "density": self.density,
            "sparse_density": self.sparse_density,
            "phases": {name: list(phase) for name, phase in self.phases.items()},
            "dense_reasons": self.dense_reasons,
            "shared_calls": self.shared_calls,
            "residual": self.residual,
            "residual_bytes": self.residual_bytes,
            "sites": [asdict(site) for site in self.sites],
            "untouched": list(self.untouched),
            "never_called": list(self.never_called),
            "steps_counted_by": self.step_source,
            "forwards": self.forwards,
            "dense_backend": self.dense_backend,
        }

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *self._table()])

    def _head(self) -> list[str]:
        lines = [f"{len(self.sites)} attention sites accelerated, {self.calls} calls{self._during()}"]
        if self.calls:
            sparse = self.sparse_density
            alone = f" ({sparse:.3f} in the sparse calls alone)" if sparse is not None else ""
            lines.append(
                f"density {self.density:.3f}{alone}: share of dense attention's blocks that were executed"
            )
        lines += [f"{name}: {n} calls at density {mean:.3f}" for name, (n, mean) in self.phases.items()]
        lines += [f"dense: {count} calls, {reason}" for reason, count in self.dense_reasons.items()]
        if self.shared_calls:
            lines.append(f"{self.shared_calls} calls shared: both passes of guidance compute the same there")
        if self.residual:
            counts = ", ".join(f"{what} {count}" for what, count in self.residual.items())
            lines.append(f"residual: {counts}; {self.residual_bytes / 2**20:.1f} MiB kept")
        if self.step_source:
            lines.append(f"steps counted by the {self.step_source}")
        if self.dense_backend:
            lines.append(f"dense calls run on {self.dense_backend}, chosen since")
        if self.calls and self.never_called:
            lines.append(f"never called: {', '.join(self.never_called)}")
        lines += [f"replaced by someone else since: {site.site}" for site in self.sites if not site.in_force]
        return lines

    def _during(self) -> str:
        return f" in {self.forwards} forwards" if self.forwards else ""

    def _table(self) -> list[str]:
        rows = [f"{'site':<32} {'method':<10} {'calls':>6} {'sparse':>6} {'density':>7}  dense reasons"]
        for site in self.sites:
            density = "-" if site.density is None else f"{site.density:.3f}"
            reasons = ", ".join(f"{reason} {count}" for reason, count in site.dense_reasons.items())
            counts = f"{site.calls:>6} {site.sparse_calls:>6} {density:>7}"
            rows.append(f"{site.site:<32} {site.method:<10} {counts}  {reasons}")
        return rows


def summarize(patches: Sequence[Patch]) -> Summary:
    """The account of one or more patches."""
    sites = tuple(_site_summary(seat) for patch in patches for seat in patch.seats)
    untouched = tuple(
        step.site.full_name for patch in patches for step in patch.plan.steps if step.rule is None
    )
    seats = [seat for patch in patches for seat in patch.seats]
    return Summary(
        sites,
        untouched,
        patches[0].step_source,
        sum(hook.forwards for patch in patches for hook in patch.hooks.values()),
        ", ".join(sorted(chosen_backends(seats))),
    )


def _site_summary(seat: Seated) -> SiteSummary:
    record = seat.attention.record
    return SiteSummary(
        seat.site.full_name,
        seat.attention.policy.method,
        record.calls,
        record.sparse_calls,
        record.density(),
        dict(record.dense),
        seat.uninstall.in_force,
        record.phases(),
        record.shared_calls,
        *_residual(seat),
    )


def _residual(seat: Seated) -> tuple[dict[str, int], int]:
    residual = getattr(seat.attention, "residual", None)
    return ({}, 0) if residual is None else (dict(residual.counts), residual.nbytes)
