"""Everything a comparison page shows: two runs, how their videos compare, where time and blocks went."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from accel.comparison.anchors import Anchor
from accel.comparison.curve import Tried
from accel.comparison.pays import AttentionTime
from accel.comparison.quality import Quality
from accel.comparison.worst import Worst

MEDIA_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".gif": "image/gif"}
ROLES = ("accelerated", "noise floor", "other seed")


@dataclass(frozen=True)
class Run:
    """One generation: what to play and where its time went.

    Args:
        label: "dense", "accelerated".
        seconds_total: prompt in, frames out; dense steps, text encoder and VAE included.
        seconds_transformer: inside the denoising transformer, a part of the total; None if not measured.
        seconds_attention: inside the attention of the sites the recipe could match, choosing blocks
            included, a part of the transformer's seconds; None if not measured.
        video_path: an .mp4, or a .png or .gif; None leaves the player out.

    Raises:
        ValueError: if a time is not above 0, a part is longer than the whole, or the file of no known kind.
    """

    label: str
    seconds_total: float
    seconds_transformer: float | None = None
    seconds_attention: float | None = None
    video_path: Path | None = None

    def __post_init__(self) -> None:
        whole = math.inf
        for name in ("seconds_total", "seconds_transformer", "seconds_attention"):
            seconds = getattr(self, name)
            if seconds is None:
                continue
            if not 0 < seconds < math.inf:
                raise ValueError(f"{self.label}: {name} must be above 0, got {seconds}")
            if seconds > whole:
                raise ValueError(f"{self.label}: {name} is {seconds}, more than the {whole} it is a part of")
            whole = seconds
        if self.video_path is not None and Path(self.video_path).suffix not in MEDIA_TYPES:
            raise ValueError(f"{self.video_path}: a page can show {', '.join(MEDIA_TYPES)}")


@dataclass(frozen=True)
class Comparison:
    """One video against the dense one.

    Args:
        role: "accelerated"; "noise floor", the dense model again under another exact attention backend: the
            best a method can hope for; or "other seed", the dense model from other noise: what having nothing
            in common scores.
        label: the row's heading, such as "accelerated vs dense".
        explanation: a sentence for a reader who has not met the row before.
        latent_relative_error: norm(a - b) / norm(b) of the final latents; None if not measured.

    Raises:
        ValueError: if the role is another one, or the error is negative.
    """

    role: str
    label: str
    quality: Quality
    explanation: str = ""
    latent_relative_error: float | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, got {self.role!r}")
        if self.latent_relative_error is not None and not self.latent_relative_error >= 0:
            raise ValueError(f"a relative error is at least 0, got {self.latent_relative_error}")


@dataclass(frozen=True)
class Report:
    """A comparison of one recipe with the dense model on one prompt and seed.

    Args:
        recipe_text: the YAML the run used, word for word.
        comparisons: at most one for each role.
        density_by_layer_and_step: one row a layer, one number a denoising step: the mean density, in (0, 1],
            of that layer's calls in that step; None where they ran dense; NaN where there was no call.
        layer_names: one for each row, or empty: rows are then numbered.
        layer_work: of a dense call of each row, in any unit; empty where all are alike.
        dense_reasons: calls that ran dense, by reason.
        sparse_calls: calls that ran sparse; None if not counted.
        versions: library to version.
        settings: device, seed, size, steps and the like, in words.
        command: the command line that made the page.
        anchors: what other changes do to a video, for the rulers.
        worst: where the accelerated video differs most; None if nowhere, or not looked for.
        attention_time: what sparse calls took compared with dense ones of the same run; None if not known.
        curve: what tuning tried on the way to the recipe, if it was tuned.

    Raises:
        ValueError: if a role occurs twice, curves differ in length, densities are ragged or out of range, or
            counts are negative.
    """

    title: str
    prompt: str
    model: str
    recipe_name: str
    recipe_text: str
    dense: Run
    accelerated: Run
    comparisons: tuple[Comparison, ...] = ()
    density_by_layer_and_step: tuple[tuple[float | None, ...], ...] = ()
    layer_names: tuple[str, ...] = ()
    layer_work: tuple[float, ...] = ()
    dense_reasons: dict[str, int] = field(default_factory=dict)
    sparse_calls: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    command: str = ""
    anchors: tuple[Anchor, ...] = ()
    worst: Worst | None = None
    attention_time: AttentionTime | None = None
    curve: tuple[Tried, ...] = ()

    def __post_init__(self) -> None:
        roles = [comparison.role for comparison in self.comparisons]
        if len(set(roles)) < len(roles):
            raise ValueError(f"every role at most once, got {', '.join(roles)}")
        if len(lengths := {len(each.quality.per_frame_psnr) for each in self.comparisons}) > 1:
            raise ValueError(f"comparisons of one video have one number of frames, got {sorted(lengths)}")
        rows = self.density_by_layer_and_step
        if len(widths := {len(row) for row in rows}) > 1 or 0 in widths:
            raise ValueError(f"every layer needs one density a step, got rows of {sorted(widths)} steps")
        for density in (value for row in rows for value in row if value is not None):
            if not (math.isnan(density) or 0 < density <= 1):
                raise ValueError(f"density must be in (0, 1], got {density}")
        if self.layer_names and len(self.layer_names) != len(rows):
            raise ValueError(f"got {len(self.layer_names)} layer names for {len(rows)} layers")
        for reason, calls in {**self.dense_reasons, "sparse": self.sparse_calls or 0}.items():
            if calls < 0:
                raise ValueError(f"{reason}: calls are counted from 0, got {calls}")

    def comparison(self, role: str) -> Comparison | None:
        """The comparison of that role, if it was made."""
        return next((each for each in self.comparisons if each.role == role), None)

    def speedup(self, part: str) -> float | None:
        """Dense over accelerated seconds of the "total", "transformer" or "attention", if both are known."""
        dense, accelerated = (getattr(run, f"seconds_{part}") for run in (self.dense, self.accelerated))
        return None if dense is None or accelerated is None else dense / accelerated

    def density(self, with_dense: bool = True) -> float | None:
        """Mean density over layers and steps, by the layers' work; dense calls count as 1 or, if asked for,
        not at all."""
        rows = self.density_by_layer_and_step
        cells = [
            (work, 1.0 if value is None else value)
            for work, row in zip(self.layer_work or (1.0,) * len(rows), rows, strict=True)
            for value in row
            if value is not None or with_dense
        ]
        known = [(work, value) for work, value in cells if not math.isnan(value)]
        return sum(work * value for work, value in known) / sum(work for work, _ in known) if known else None
