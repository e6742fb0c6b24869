"""Render a Report as one HTML file that needs no other file and no network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from accel.comparison.drawing.charts import curve_chart, error_ruler, ssim_ruler, time_bars, tradeoff_chart
from accel.comparison.drawing.density_map import density_map
from accel.comparison.drawing.digits import FILTERS
from accel.comparison.report import MEDIA_TYPES, Report, Run
from accel.comparison.words import advice, verdict
from accel.files import write_whole

HERE = Path(__file__).parent
PICTURES = ("dense", "accelerated", "dense_place", "accelerated_place")


def render_report(report: Report) -> str:
    """The page as HTML, its videos inside as base64.

    Raises:
        FileNotFoundError: if a run names a video that is not there.
    """
    return rendered(HERE / "report.html.j2", **_page(report))


def rendered(template: Path, **values: Any) -> str:
    """The text that a template makes, which may use those beside it and those of comparisons."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(FILTERS)
    return environment.get_template(template.name).render(values)


def write_report(report: Report, path: str | Path) -> Path:
    """Write the page to `path`, whole or not at all, and return the path.

    Raises:
        FileNotFoundError: if a run names a video that is not there, or the folder does not exist.
    """
    return write_whole(Path(path), render_report(report))


def _page(report: Report) -> dict[str, Any]:
    """Every name the template uses."""
    comparisons, worst = report.comparisons, report.worst
    accelerated = report.comparison("accelerated")
    error = None if accelerated is None else accelerated.latent_relative_error
    runs = (report.dense, report.accelerated)
    data = [_video_of(run) for run in runs]
    psnr = [(each, each.quality.per_frame_psnr) for each in comparisons]
    ssim = [(each, each.quality.per_frame_ssim) for each in comparisons]
    return {
        "report": report,
        "accelerated": accelerated,
        "frames": len(psnr[0][1]) if psnr else None,
        "reference_flicker": comparisons[0].quality.reference_flicker if comparisons else None,
        "media_data": {"dense": data[0], "accelerated": data[1]},
        "playable": any(uri.startswith("data:video") for uri in data),
        "density": {"all": report.density(), "sparse": report.density(with_dense=False)},
        "calls": (report.sparse_calls or 0) + sum(report.dense_reasons.values()),
        "rulers": [
            ruler for make in (ssim_ruler, error_ruler) if (ruler := make(accelerated, report.anchors))
        ],
        "anchored": report.anchors,
        "tradeoff": tradeoff_chart(report.curve, report.speedup("transformer"), error),
        "verdict": verdict(report),
        "advice": advice(report),
        "worst": worst,
        "pictures": {}
        if worst is None
        else {name: data_uri(getattr(worst, name), "image/png") for name in PICTURES},
        "psnr_chart": curve_chart("PSNR by frame", "PSNR (dB)", psnr),
        "ssim_chart": curve_chart("SSIM by frame", "SSIM", ssim),
        "bars": time_bars(runs),
        "heat_map": density_map(report.density_by_layer_and_step, report.layer_names),
    }


def _video_of(run: Run) -> str:
    """The run's video as a data URI; empty without a video."""
    if run.video_path is None:
        return ""
    path = Path(run.video_path)
    return data_uri(path.read_bytes(), MEDIA_TYPES[path.suffix])


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
