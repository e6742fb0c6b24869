"""The command line in this process."""

import sys

from pytest import fixture, raises

from accel.cli.app import main


@fixture
def accel(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in a folder of its own; gives its code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["accel", *map(str, words)])
        with raises(SystemExit) as stopped:
            main()
        return (int(stopped.value.code or 0), *capsys.readouterr())

    return run
