"""The page: fields on the left, dense and accelerated side by side on the right, by Gradio (extra: `ui`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accel.demo.paths import DEMO_PROMPTS
from accel.mistake import Mistake
from accel.recipe.files import shipped_recipes
from accel.ui.form import Form
from accel.ui.numbers import Row
from accel.ui.reporter import SHOWN, Shown
from accel.ui.session import Session

HEADERS = ["", "dense", "accelerated", "times faster"]
STYLE = """
footer { display: none !important; }
#status { min-height: 1.5em; }
#numbers table { font-variant-numeric: tabular-nums; }
#numbers :is(th, td) { padding: 4px 8px; overflow-wrap: normal; word-break: normal; }
#verdict p:nth-child(-n+2) { font-weight: 600; }
@media (max-width: 700px) {
  #sides { flex-direction: column; }
  #sides > .column { width: 100%; }
  #numbers :is(th, td) { padding: 4px; font-size: 14px; }
}
"""
# Fonts of the system: a page on the loopback interface asks no other machine for anything.
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
HOUR = 3600
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def build(session: Session) -> Any:
    """The page as Gradio's blocks.

    Raises:
        Mistake: if Gradio is not installed.
    """
    gr = gradio()
    with gr.Blocks(title="sparse-accel", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as page:
        gr.Markdown(
            "# sparse-accel\nOne prompt and seed, dense and with block-sparse attention, side by side."
        )
        with gr.Row(elem_id="sides"):
            with gr.Column(scale=1, min_width=280):
                fields = _fields(gr)
                go = gr.Button("Run", variant="primary", elem_id="run")
                stop = gr.Button("Stop")
            with gr.Column(scale=2, min_width=320):
                shown = _results(gr)

        def run(*values: Any) -> Iterator[list[Any]]:
            for now in shown_of(session, dict(zip(fields, values, strict=True))):
                yield [gr.update(**update._asdict()) for update in updates(now)]

        go.click(
            run, list(fields.values()), shown, concurrency_limit=1, show_progress="hidden", api_name=False
        )
        stop.click(session.stop, None, None, queue=False, api_name=False)
    return page.queue(max_size=1, default_concurrency_limit=1)


def shown_of(session: Session, values: dict[str, Any]) -> Iterator[Shown]:
    """Run a form; a wrong field is reported and nothing runs."""
    try:
        form = Form.of(values)
    except Mistake as mistake:
        yield Shown(str(mistake), failed=True)
        return
    yield from session.run(form)


def _fields(gr: Any) -> dict[str, Any]:
    """The form's fields by name, in the order of `Form`."""
    fields = {
        "prompt": gr.Textbox(DEMO_PROMPTS[0], label="Prompt", lines=2, elem_id="prompt"),
        "model": gr.Textbox("demo", label="Model: demo, a folder or a hub id"),
    }
    for row in (("height", "width"), ("frames", "steps", "seed")):
        with gr.Row():
            for name in row:
                hint = "0" if name == "seed" else "usual"
                fields[name] = gr.Textbox("", label=name.capitalize(), placeholder=hint, min_width=70)
    names = ["", *shipped_recipes()]
    fields["recipe"] = gr.Dropdown(
        names, value="", label="Recipe: a name or a file; empty picks one", allow_custom_value=True
    )
    fields["density"] = gr.Textbox("", label="Density, up to 1", placeholder="the recipe's")
    fields["target"] = gr.Textbox(
        "", label="Or a quality target; takes dozens of runs", placeholder="ssim>0.95"
    )
    return fields


def _results(gr: Any) -> list[Any]:
    """What a run shows, in the order of `updates`."""
    status = gr.Markdown("", elem_id="status")
    look: dict[str, Any] = {"buttons": [], "min_width": 140}
    with gr.Row():
        videos = [gr.Video(label=name, autoplay=True, loop=True, elem_id=name, **look) for name in SHOWN]
    with gr.Row():
        images = [gr.Image(label=name, visible=False, **look) for name in SHOWN]
    preview = gr.Image(label="latents of the current run", visible=False, buttons=[], height=200)
    verdict = gr.Markdown("", elem_id="verdict")
    numbers = gr.Markdown("", visible=False, elem_id="numbers")
    page = gr.File(label="the report: rulers, curves, where it differs most", visible=False)
    look = {"show_line_numbers": False, "visible": False, "language": None, "lines": 1}
    # The summary has a table, whose lines stay whole.
    texts = [
        gr.Code(label=name, elem_id=name, wrap_lines=wrap, **look)
        for name, wrap in (("summary", False), ("recipe", True))
    ]
    return [status, *videos, *images, preview, verdict, numbers, page, *texts]


class Update(NamedTuple):
    """What a component of the page shows."""

    value: Any
    visible: bool = True


def updates(now: Shown) -> tuple[Update, ...]:
    """What every result shows, in the page's order."""
    results = now.dense, now.accelerated
    videos = [None if path is None or path.suffix == ".png" else str(path) for path in results]
    images = [str(path) if path is not None and path.suffix == ".png" else None for path in results]
    status = f"**{escaped(now.status)}**" if now.failed else escaped(now.status)
    return (
        Update(status),
        *(Update(video, not any(images)) for video in videos),
        *(Update(image, any(images)) for image in images),
        Update(now.preview, now.preview is not None),
        Update("\n\n".join(escaped(sentence) for sentence in now.verdict)),
        Update(table(now.numbers), bool(now.numbers)),
        Update(None if now.page is None else str(now.page), now.page is not None),
        Update(now.summary, bool(now.summary)),
        Update(now.recipe, bool(now.recipe)),
    )


def table(rows: Sequence[Row]) -> str:
    """Rows of text as a table of Markdown under `HEADERS`."""
    lines = [HEADERS, ["---", "---:", "---:", "---:"], *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """Text escaped for Markdown and HTML."""
    return "".join(f"&#{ord(letter)};" if letter in "&<>*_`[]#|\\$~!" else letter for letter in text)


def launch(output: Path, host: str = LOOPBACK[0], port: int | None = None) -> None:
    """Serve the page until it is interrupted.

    Args:
        output: the folder that everything is written to, including Gradio's own files.
        host: the interface; any but the loopback lets others run prompts here.

    Raises:
        Mistake: if Gradio is not installed, or the port is taken.
    """
    output = output.absolute()
    # Read by Gradio, and by what it imports, when it is imported. This process is the page and nothing else.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = os.environ["MPLCONFIGDIR"] = str(output / "page")
    gr = gradio()
    page = build(Session(output))
    theme = gr.themes.Base(font=FONTS, font_mono=("ui-monospace", "Consolas", "monospace"))
    try:
        page.launch(
            server_name=host, server_port=port, share=False, theme=theme, css=STYLE, ssr_mode=False,
            footer_links=[], enable_monitoring=False, show_error=True, allowed_paths=[str(output)],
        )  # fmt: skip
    except OSError as error:
        raise Mistake(f"cannot serve the page on {host}: {error}") from error


def gradio() -> Any:
    """The library.

    Raises:
        Mistake: if it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise Mistake(f"accel ui needs Gradio: pip install 'sparse-accel[ui]' ({error})") from None
    return gradio
