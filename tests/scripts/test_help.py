"""Every script says what it does: its help can be printed, brackets and all."""

from importlib import import_module
from pathlib import Path

import typer
from pytest import mark
from typer.testing import CliRunner

SCRIPTS = Path(__file__).parents[2] / "scripts"
RUN = [path for path in sorted(SCRIPTS.rglob("*.py")) if "typer.run(main)" in path.read_text()]


@mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_help_is_printed(path):
    name = ".".join(path.relative_to(SCRIPTS.parent).with_suffix("").parts)
    app = typer.Typer()
    app.command()(import_module(name).main)
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0 and "Options" in result.output, result.exception
