"""Words: what the numbers of a comparison mean, in sentences, for the page and the terminal alike."""

from __future__ import annotations

import re

from accel.comparison.anchors import Anchor
from accel.comparison.drawing.digits import ratio, seconds, similarity, small
from accel.comparison.report import Report

GOOD, WORSE = 0.97, 0.9


def verdict(report: Report) -> list[str]:
    """How fast, how close, and how it flickers; the sentences a reader should not miss."""
    said = [speed(report), *slower(report), closeness(report), flicker(report)]
    return [sentence for sentence in said if sentence]


def speed(report: Report) -> str:
    """End to end, and where the time went."""
    total, attention = report.speedup("total"), report.speedup("attention")
    if total is None:
        return ""
    times = f"{seconds(report.dense.seconds_total)} became {seconds(report.accelerated.seconds_total)}"
    of_attention = "" if attention is None else f", attention {ratio(attention)}"
    if total > 1:
        chance = (
            ""
            if attention is None or attention > 1
            else (" Attention itself was slower, so this is chance: run it again on a quiet machine.")
        )
        return f"{ratio(total)} as fast end to end: {times}{of_attention}.{chance}"
    return f"Slower than dense: {times}{of_attention}."


def closeness(report: Report) -> str:
    """SSIM and latent error between the nearest familiar changes."""
    found = report.comparison("accelerated")
    if found is None:
        return ""
    if found.quality.identical:
        return "The video is identical to the dense one."
    near = between(found.quality.ssim, [(each.ssim, each) for each in report.anchors], higher=True)
    said = f"SSIM {similarity(found.quality.ssim)} against the dense video{near}."
    error = found.latent_relative_error
    if error is None:
        return said
    known = [(each.latent_error, each) for each in report.anchors if each.latent_error is not None]
    return f"{said} Latent error {small(error)}{between(error, known, higher=False)}."


def between(value: float, known: list[tuple[float, Anchor]], *, higher: bool) -> str:
    """Which anchors a number lies between, phrased to follow the number.

    Args:
        known: each anchor with its number of the same kind.
        higher: whether higher is closer to dense.
    """
    ordered = sorted(known, key=lambda pair: pair[0], reverse=higher)
    closer = [pair for pair in ordered if pair[0] != value and (pair[0] > value) == higher]
    further = [pair for pair in ordered if pair not in closer]
    digits = similarity if higher else small
    parts = [f"closer than {each.said(digits(number))}" for number, each in further[:1]]
    parts += [f"not as close as {each.said(digits(number))}" for number, each in closer[-1:]]
    return f": {', '.join(parts)}" if parts else ""


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
    if total is None or total > 1:
        return []
    said = []
    if part is not None and attention is not None and attention > 1:
        share = part / report.dense.seconds_total
        said.append(
            f"Attention, {share:.0%} of the dense run, gained {seconds(part - part / attention)}; the rest "
            "of the run lost more, which no recipe influences: run it again on a quiet machine."
        )
    if time is None:
        return said
    if time.sparse >= time.dense:
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
        return ["There is quality to spare: `accel tune --target 'ssim>0.95'` looks for a faster recipe."]
    begin = "Much differs" if found.quality.ssim < WORSE else "To come closer to dense"
    return [
        f"{begin}: keep more steps dense (`--set dense_steps=0.4`){_more_blocks(report.recipe_text)}, or let "
        "`accel tune --target 'ssim>0.97'` find the fastest recipe that is close enough on your prompts."
    ]


def _more_blocks(recipe: str) -> str:
    """An option that raises the recipe's share of blocks or of mass."""
    for key in ("mass", "density"):
        values = {float(value) for value in re.findall(rf"\b{key}: *(0?\.\d+)", recipe)}
        if len(values) == 1:
            value = values.pop()
            return f", keep more blocks (`--set {key}={value + (1 - value) / 2:.3g}`)"
    return ""
