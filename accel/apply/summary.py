"""Summary: one account of a patch: site, policy, calls, density, and every dense reason with its count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from accel.apply.groups import COLUMNS, Group, common_names, groups
from accel.apply.installed_site import InstalledSite
from accel.apply.notices import chosen_backends
from accel.apply.patch import Patch
from accel.apply.site_summary import SiteSummary
from accel.kernels.attention.tiers import choose_tier
from accel.plain_text import plain
from accel.sites.spent import Saving, saving


@dataclass(frozen=True)
class Summary:
    """The account of everything that was accelerated together. Readable as text and as a dict.

    Args:
        untouched: sites that no rule matches.
        step_source: what denoising steps are counted by; empty if there are none.
        forwards: forwards of the models since; 0 for language models, which are not counted. A cache that
            leaves blocks out makes fewer calls of them than there are forwards times sites.
        dense_backend: the attention backend chosen since then for dense calls; empty if there was no choice.
        recipe: what people call it.
        devices: where calls were, and in which type: "cpu, float32".
        tiers: the kernels of sparse calls.
        dense_on: what dense calls run on.
        saving: seconds of the sparse calls and those that capture a residual, and what as many dense ones
            of this run take, by the median of the first of each; None where nothing ran both ways.
        sparse_saving: the same of the sparse calls alone.
        few_steps: why the settings for few steps were last in force, in words; empty if they never were.
    """

    sites: tuple[SiteSummary, ...]
    untouched: tuple[str, ...]
    step_source: str
    forwards: int
    dense_backend: str
    recipe: str
    devices: tuple[str, ...]
    tiers: tuple[str, ...]
    dense_on: tuple[str, ...]
    saving: Saving | None
    sparse_saving: Saving | None
    few_steps: str = ""

    @property
    def calls(self) -> int:
        return sum(site.calls for site in self.sites)

    @property
    def sparse_calls(self) -> int:
        return sum(site.sparse_calls for site in self.sites)

    @property
    def density(self) -> float | None:
        """Mean density of all calls by their work, dense ones counting 1: the share of dense attention's."""
        if not self.calls:
            return None
        dense = sum(site.work * (site.calls - site.sparse_calls - site.shared_calls) for site in self.sites)
        return (dense + self._sparse_work) / sum(site.work * site.calls for site in self.sites)

    @property
    def sparse_density(self) -> float | None:
        """Mean density of the sparse calls alone, by their work."""
        if not self.sparse_calls:
            return None
        return self._sparse_work / sum(site.work * site.sparse_calls for site in self.sites)

    @property
    def _sparse_work(self) -> float:
        return sum(site.work * site.sparse_calls * (site.density or 0) for site in self.sites)

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
        return dict(sum((Counter(site.dense_reasons) for site in self.sites), Counter()).most_common())

    @property
    def shared_calls(self) -> int:
        return sum(site.shared_calls for site in self.sites)

    @property
    def residual(self) -> dict[str, int]:
        """How often residuals were captured, applied, or missing."""
        return dict(sum((Counter(site.residual) for site in self.sites), Counter()))

    @property
    def residual_bytes(self) -> int:
        """The peak bytes of residuals in one generation, over all sites."""
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
            "recipe": self.recipe,
            "devices": list(self.devices),
            "tiers": list(self.tiers),
            "dense_on": list(self.dense_on),
            "attention_seconds": None if self.saving is None else asdict(self.saving),
            "few_steps": self.few_steps,
        }

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *_table(groups(self.sites))])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head = "".join(f"<div>{_escaped(line)}</div>" for line in self._head())
        rows = [_row("td", group.cells) for group in groups(self.sites)]
        return f"{head}<table>{_row('th', COLUMNS)}{''.join(rows)}</table>"

    @property
    def account(self) -> list[str]:
        """Density and dense reasons, in sentences."""
        if not self.calls:
            return []
        sparse = self.sparse_density
        alone = f" ({sparse:.3f} in the sparse calls alone)" if sparse is not None else ""
        share = f"density {self.density:.3f}{alone}: share of dense attention's blocks that were executed"
        return [share, *(f"dense: {count} calls, {reason}" for reason, count in self.dense_reasons.items())]

    def _head(self) -> list[str]:
        by = f" by recipe {self.recipe}" if self.recipe else ""
        during = f" in {self.forwards} forwards" if self.forwards else ""
        lines = [f"{len(self.sites)} attention sites accelerated{by}, {self.calls} calls{during}"]
        if self.devices:
            tier = f"; sparse calls by the {' and '.join(self.tiers)} tier" if self.tiers else ""
            lines.append(f"on {' and '.join(self.devices)}{tier}; dense calls by {', '.join(self.dense_on)}")
        if self.saving is not None:
            lines.append(self._saved(self.saving))
        lines += self.account
        lines += [f"{name}: {n} calls at density {mean:.3f}" for name, (n, mean) in self.phases.items()]
        if self.shared_calls:
            lines.append(f"{self.shared_calls} calls shared: both passes of guidance compute the same there")
        if self.residual:
            counts = ", ".join(f"{what} {count}" for what, count in self.residual.items())
            lines.append(f"residual: {counts}; {self.residual_bytes / 2**20:.1f} MiB kept")
        if self.few_steps:
            lines.append(
                f"few steps ({self.few_steps}): only the first step of each expert dense, no blocks "
                "kept without a residual"
            )
        if self.step_source:
            lines.append(f"steps counted by the {self.step_source}")
        if self.dense_backend:
            lines.append(f"dense calls run on {self.dense_backend}, chosen since")
        if self.calls and self.never_called:
            lines.append(f"never called: {common_names(self.never_called)}")
        if replaced := [site.site for site in self.sites if not site.in_force]:
            lines.append(f"replaced by someone else since: {common_names(replaced)}")
        return lines

    @staticmethod
    def _saved(saving: Saving) -> str:
        faster = saving.sparse < saving.dense
        said = "saved" if faster else "lost: dense attention is faster here"
        return (
            f"sparse calls took {saving.sparse:.2f} s and as many dense ones take {saving.dense:.2f} s: "
            f"{abs(saving.dense - saving.sparse):.2f} s {said}"
        )


def _table(lines: Sequence[Group]) -> list[str]:
    cells = [COLUMNS, *(line.cells for line in lines)]
    *widths, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
    sides = f"<<{'>' * (len(widths) - 2)}<"
    rows = (zip(row, sides, (*widths, 0), strict=True) for row in cells)
    return ["  ".join(f"{cell:{side}{width}}" for cell, side, width in row).rstrip() for row in rows]


def _row(kind: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{_escaped(cell)}</{kind}>' for cell in cells)}</tr>"


def _escaped(text: str) -> str:
    return escape(plain(text))


def summarize(patches: Sequence[Patch]) -> Summary:
    """The account of one or more patches."""
    untouched = tuple(
        step.site.full_name for patch in patches for step in patch.plan.steps if step.rule is None
    )
    installed = [one for patch in patches for one in patch.installed]
    spent = [one.attention.spent for one in installed]
    sparse = [
        (form, one.attention.precision) for one in installed for form in one.attention.spent.of("sparse")
    ]
    forms = [*(form for form, _ in sparse), *(form for each in spent for form in each.of("dense"))]
    devices = (f"{form.device}, {str(form.dtype).removeprefix('torch.')}" for form in forms)
    tiers = (choose_tier(form.device, form.dtype, form.shape[-1], precision=of).name for form, of in sparse)
    return Summary(
        tuple(_site_summary(one, patch.removed) for patch in patches for one in patch.installed),
        untouched,
        patches[0].step_source,
        sum(hook.forwards for patch in patches for hook in patch.hooks.values()),
        ", ".join(sorted(chosen_backends(installed))),
        ", ".join(dict.fromkeys(patch.plan.called for patch in patches)),
        tuple(dict.fromkeys(devices)),
        tuple(dict.fromkeys(tiers)),
        tuple(dict.fromkeys(one.uninstall.dense_backend for one in installed)),
        saving(spent, "sparse", "capture"),
        saving(spent, "sparse"),
        next((why for one in installed if (why := getattr(one.attention, "overlay", ""))), ""),
    )


def _site_summary(one: InstalledSite, removed: bool) -> SiteSummary:
    record, residual = one.attention.record, getattr(one.attention, "residual", None)
    return SiteSummary(
        one.site.full_name,
        one.attention.policy.method,
        record.calls,
        record.sparse_calls,
        record.density(),
        dict(record.dense),
        removed or one.uninstall.in_force,
        record.phases(),
        record.shared_calls,
        {} if residual is None else dict(residual.counts),
        0 if residual is None else residual.nbytes,
        one.site.work,
    )
