"""accel ui: a page in the browser to try things on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from accel.cli import options
from accel.cli.terminal import complain


def ui(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything that is written.")
    ] = Path("out/ui"),
    host: Annotated[
        str,
        typer.Option(help="Interface to serve on; all but the loopback let others run prompts here."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port; by default the first free one from 7860.", min=1, max=65535)
    ] = None,
) -> None:
    """Serve a page in the browser: type a prompt, see dense and accelerated side by side."""
    options.require_folder("--output", output)
    from accel.ui.page import LOOPBACK, gradio, launch

    gradio()
    if host not in LOOPBACK:
        complain(
            f"serving on {host} without a password: anyone who reaches it can run prompts on this machine"
        )
    launch(output, host, port)
