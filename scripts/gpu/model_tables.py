"""Tables of whole models: a language model's prompts and decoding, a video transformer, the demos."""

from __future__ import annotations

from scripts.gpu.found import NOT_MEASURED, Found, Row, cell, met_or_missed, table

PREFILL_TARGETS = {16384: 1.0, 65536: 1.5, 131072: 2.0, 262144: 2.75}
DECODE_TARGET = 5.0  # times less attention time a token, at 131,072 tokens


def prefill(found: Found) -> list[str]:
    """Time to the first token by length, with a line for each target that was not measured."""
    rows = found.rows("prefill")
    cells = [_prefill_cells(row) for row in rows]
    for tokens, target in PREFILL_TARGETS.items():
        if all(row["tokens"] != tokens for row in rows):
            cells.append([tokens, "", *[NOT_MEASURED] * 6, f"{target}", met_or_missed(None)])
    head = (
        "tokens", "layers", "dense, s", "accelerated, s", "times faster", "attention times faster", "density",
        "peak GiB, dense / accelerated", "target", "",
    )  # fmt: skip
    return [*_about(found, "prefill"), *table(head, cells)]


def _prefill_cells(row: Row) -> list:
    target = PREFILL_TARGETS.get(row["tokens"])
    return [
        row["tokens"], row["layers"], row["dense"]["seconds"], row["accelerated"]["seconds"],
        row["times_faster"], row["attention_times_faster"], row["accelerated"]["density"], _peaks(row),
        target or "", met_or_missed(row["times_faster"] >= target) if target else "",
    ]  # fmt: skip


def decode(found: Found) -> list[str]:
    """Time of a token by recipe and length."""
    rows = found.rows("decode")
    if not rows:
        return [found.why_not("decode"), ""]
    head = (
        "recipe", "tokens", "dense, ms", "accelerated, ms", "times faster", "dense attention, ms",
        "accelerated attention, ms", "times faster", "",
    )  # fmt: skip
    cells = [
        [
            row["recipe"], row["tokens"], *(1000 * row[side]["seconds"] for side in ("dense", "accelerated")),
            row["times_faster"],
            *(1000 * row[side]["attention_seconds"] for side in ("dense", "accelerated")),
            row["attention_times_faster"],
            met_or_missed(row["attention_times_faster"] >= DECODE_TARGET) if row["tokens"] == 131072 else "",
        ]
        for row in rows
    ]  # fmt: skip
    goal = f"At 131,072 tokens attention is to take {DECODE_TARGET:.0f} times less."
    return [*_about(found, "decode"), goal, "", *table(head, cells)]


def _about(found: Found, stage: str) -> list[str]:
    rows = found.rows(stage)
    if not rows:
        return [found.why_not(stage), ""]
    first = rows[0]
    words = f"{first['shape']}, random weights, {first['dtype']}, {first['tier']} tier, dense by "
    return [f"{words}{first['dense_attention']}.", ""]


def _peaks(row: Row) -> str:
    peaks = [row[side]["peak_bytes"] for side in ("dense", "accelerated")]
    return " / ".join(NOT_MEASURED if peak is None else f"{peak / 2**30:.1f}" for peak in peaks)


def wan(found: Found) -> list[str]:
    """One forward of a random video transformer by density."""
    rows = found.rows("wan")
    if not rows:
        return [found.why_not("wan"), ""]
    first = rows[0]
    cells = [[row["asked"], row["seconds"], row["times_faster"], row["error"]] for row in rows]
    return [
        f"{first['layers']} layers of Wan2.1-14B's shape, random weights, {first['tokens']:,} tokens, "
        f"{first['dtype']}, {first['tier']} tier, blocks of 128 x 64 chosen in every call; dense "
        f"{cell(first['dense_seconds'])} s. The error is of the model's output.",
        "",
        *table(("density", "s", "times faster", "error"), sorted(cells, key=lambda row: -row[0])),
    ]


def demos(found: Found) -> list[str]:
    """The embedded video model and language model."""
    lines = []
    for row in found.rows("demo"):
        parts = [[part, row["dense"][part], row["accelerated"][part]] for part in row["dense"]]
        lines += table(("demo", "dense, s", "accelerated, s"), parts)
        scores = [[role, *scores.values()] for role, scores in row["quality"].items()]
        lines += table(("against dense", "SSIM", "PSNR, dB", "latent error"), scores)
        lines += [f"Density of sparse calls {cell(row['density'])}; dense calls {row['dense_reasons']}.", ""]
    lines += [] if found.rows("demo") else [f"demo: {found.why_not('demo')}", ""]
    for row in found.rows("demo-llm"):
        names = ("prompt_tokens", "dense_seconds", "accelerated_seconds", "dense_right", "accelerated_right")
        lines += table(("demo-llm", ""), [[name.replace("_", " "), row[name]] for name in names])
    return lines + ([] if found.rows("demo-llm") else [f"demo-llm: {found.why_not('demo-llm')}", ""])
