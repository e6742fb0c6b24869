"""Words: what the numbers of a comparison mean, in sentences, for the page and the terminal alike."""

from __future__ import annotations

import re

from accel.comparison.anchors import BACKEND, Anchor
from accel.comparison.drawing.digits import ratio, seconds, similarity, small
from accel.comparison.report import Report

GOOD, WORSE = 0.97, 0.9


def verdict(report: Report) -> list[str]:
    """How fast and how close, then what explains it; the sentences a reader should not miss."""
    said = [speed(report), closeness(report), *slower(report), latent_error(report), flicker(report)]
    return [sentence for sentence in said if sentence]


def speed(report: Report) -> str:
    """End to end, and where the time went."""
    total, attention = report.speedup("total"), report.speedup("attention")
    if total is None:
        return ""
    times = f"{seconds(report.dense.seconds_total)} became {seconds(report.accelerated.seconds_total)}"
    of_attention = "" if attention is None else f", attention {ratio(attention)}"
    if report.sparse_calls == 0:
        reasons = ", ".join(report.dense_reasons) or "none was made"
        return f"No attention call ran sparse ({reasons}), so the times differ by chance: {times}."
    if total > 1:
        said = f"{ratio(total)} as fast end to end: {times}{of_attention}."
        if attention is None or attention > 1:
            return said
        return f"{said} Attention itself was slower, so this is chance: run it again on a quiet machine."
    return f"Slower than dense: {times}{of_attention}."


def closeness(report: Report) -> str:
    """Whether it is good enough: SSIM between the nearest familiar changes."""
    found = report.comparison("accelerated")
    if found is None:
        return ""
    kind = "image" if len(found.quality.per_frame_ssim) == 1 else "video"
    if found.quality.identical:
        return f"The {kind} is identical to the dense one."
    ssim = found.quality.ssim
    better, worse = nearest(ssim, [(each.ssim, each) for each in report.anchors], higher=True)
    if worse is not None:
        said = f"It is closer to the dense {kind} than {worse.name}: {_ssims(ssim, worse)}"
        beyond = (
            ""
            if better is None
            else f", but not as close as {better.name} ({better.said(similarity(better.ssim))})"
        )
        return f"{said}{beyond}."
    if better is not None:
        return f"It is not as close to the dense {kind} as {better.name}: {_ssims(ssim, better)}."
    return f"SSIM {similarity(ssim)} against the dense {kind}."


def _ssims(ssim: float, anchor: Anchor) -> str:
    return f"SSIM {similarity(ssim)} against {anchor.said(similarity(anchor.ssim))}"


def latent_error(report: Report) -> str:
    """The latent error between the nearest familiar changes."""
    found = report.comparison("accelerated")
    error = None if found is None else found.latent_relative_error
    if not error:
        return ""
    known = [(each.latent_error, each) for each in report.anchors if each.latent_error is not None]
    better, worse = nearest(error, known, higher=False)
    sides = {"smaller": worse, "larger": better}
    placed = [
        f"{how} than with {each.name} ({each.said(small(each.latent_error))})"
        for how, each in sides.items()
        if each
    ]
    return f"Latent error {small(error)}{': ' if placed else ''}{', '.join(placed)}."


def nearest(
    value: float, known: list[tuple[float, Anchor]], *, higher: bool
) -> tuple[Anchor | None, Anchor | None]:
    """The anchors a number lies between: the next closer to dense, and the next further from it.

    Another exact backend is closer than any method and says nothing, so it is never the next closer.

    Args:
        known: each anchor with its number of the same kind.
        higher: whether higher is closer to dense.
    """
    ordered = sorted(known, key=lambda pair: pair[0], reverse=higher)
    closer = [pair for pair in ordered if pair[0] != value and (pair[0] > value) == higher]
    further = [anchor for number, anchor in ordered if (number, anchor) not in closer]
    telling = [anchor for _, anchor in closer if anchor.name != BACKEND]
    return (telling[-1] if telling else None), (further[0] if further else None)


def flicker(report: Report) -> str:
    """Whether it flickers more than the dense video."""
    found = report.comparison("accelerated")
    if found is None or not found.quality.reference_flicker or found.quality.flicker_difference is None:
        return ""
    share = found.quality.flicker_difference / found.quality.reference_flicker
    if abs(share) < 0.02:
        return "It flickers as the dense video does (within 2%)."
    return f"It flickers {abs(share):.0%} {'more' if share > 0 else 'less'} than the dense video."


def slower(report: Report) -> list[str]:
    """If nothing was gained: why, and from what size on it pays off."""
    total, attention = report.speedup("total"), report.speedup("attention")
    part, time = report.dense.seconds_attention, report.attention_time
    if total is None or total > 1 or report.sparse_calls == 0:
        return []
    said = []
    if part is not None and attention is not None and attention > 1:
        share = part / report.dense.seconds_total
        said.append(
            f"Attention, {share:.0%} of the dense run, gained {seconds(part - part / attention)}; the rest "
            "of the run lost more, which no recipe influences: run it again on a quiet machine."
        )
    if time is not None and time.sparse >= time.dense:
        said.append(
            f"A sparse call of {time.tokens:,} tokens takes longer than a dense one: choosing and gathering "
            f"blocks costs more than leaving out {1 - time.density:.0%} of them saves."
        )
        pays = time.pays_from
        said.append(
            "At this density it does not pay off at any length."
            if pays is None
            else f"By this run's times, attention is faster from about {pays:,} tokens on."
        )
    return said


def advice(report: Report) -> list[str]:
    """What to change for another quality."""
    found = report.comparison("accelerated")
    if found is None or found.quality.identical:
        return []
    if found.quality.ssim >= GOOD:
        return [
            "There is quality to spare: `accel tune MODEL --target 'ssim>0.95' --prompts FILE` looks "
            "for a faster recipe."
        ]
    begin = "Much differs" if found.quality.ssim < WORSE else "To come closer to dense"
    return [
        f"{begin}: keep more steps dense (`--set dense_steps=0.4`){_more_blocks(report.recipe_text)}, or let "
        "`accel tune MODEL --target 'ssim>0.97' --prompts FILE` find the fastest recipe that is close enough "
        "on your prompts."
    ]


def _more_blocks(recipe: str) -> str:
    """An option that raises the recipe's share of blocks or of mass."""
    for key in ("mass", "density"):
        values = {float(value) for value in re.findall(rf"\b{key}: *(0?\.\d+)", recipe)}
        if len(values) == 1:
            value = values.pop()
            return f", keep more blocks (`--set {key}={value + (1 - value) / 2:.3g}`)"
    return ""
