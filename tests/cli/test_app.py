"""The `accel` command as a whole: what it imports, and how mistakes, failures and defects look."""

import errno
import importlib
import inspect
import os
import subprocess
import sys

from pytest import fixture, mark, raises

import accel
from accel.cli.app import COMMANDS, command_of, main
from accel.mistake import Mistake
from accel.plain_text import plain

app = importlib.import_module("accel.cli.app")


def python(code: str, **changes: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COLUMNS": "100", **changes}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_help_version_and_import_need_no_torch():
    """Seconds of every call of the command, and of every TAB in a shell."""
    code = (
        "import sys, accel; from accel.cli.app import main\n"
        "def run(*words):\n"
        "    sys.argv = ['accel', *words]\n"
        "    try: main()\n"
        "    except SystemExit as stopped: assert not stopped.code\n"
        "run('--help'); run('--version')\n"
        "assert 'accelerate_model' in dir(accel)\n"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert told[-1] == "[]" and f"sparse-accel {accel.__version__}" in told
    assert all(name in done.stdout for name in COMMANDS)


def test_importing_what_accel_exports_imports_no_compiler():
    """`torch._dynamo` took most of the time of `import accel`, for decorators that few runs need."""
    done = python("import sys; from accel import accelerate_model; print('torch._dynamo' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_every_name_that_accel_exports_is_there():
    for name in accel.__all__:
        assert getattr(accel, name).__name__ == name
    with raises(AttributeError, match="no attribute 'accelerat'"):
        _ = accel.accelerat


@mark.parametrize("name", COMMANDS)
def test_a_command_says_of_itself_what_the_list_says(name):
    text = command_of(name).help or ""
    assert inspect.cleandoc(text).splitlines()[0] == COMMANDS[name]


@mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell):
    words = {"COMP_WORDS": "accel gen", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "accel gen"}
    more = {"_ACCEL_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "import sys; sys.argv = ['accel']; from accel.cli.app import main; main()"
    told = python(code, **words, **more).stdout
    assert "generate" in told and "compare" not in told


@fixture
def failing(monkeypatch, capsys):
    """Run the command line with a subcommand that raises; gives the exit code and standard error."""

    def run(error: Exception) -> tuple[int, str]:
        def stop() -> None:
            raise error

        monkeypatch.setattr(app, "app", stop)
        with raises(SystemExit) as stopped:
            main()
        return int(str(stopped.value.code)), capsys.readouterr().err

    return run


def test_a_mistake_is_a_sentence_and_code_2(failing):
    code, told = failing(Mistake("no such \x1b[31mthing"))
    assert code == 2 and told.startswith("error: no such \\x1b[31mthing") and "Traceback" not in told


@mark.parametrize(
    "error", [TypeError("'int' object is not subscriptable"), ValueError("not enough values"), KeyError("x")]
)
def test_a_defect_is_a_traceback_and_a_request_to_report_it(failing, error):
    code, told = failing(error)
    assert code == 1 and "Traceback" in told and str(error) in told and "Please report it" in told


def test_a_full_disk_is_a_sentence_and_code_1(failing):
    code, told = failing(OSError(errno.ENOSPC, "No space left on device", "out/report.html"))
    assert code == 1 and told.startswith("error: out/report.html: No space left on device")
    assert "Traceback" not in told


@mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\ud800", "\\ud800"),
        ("abc\u202edcb", "abc\\u202edcb"),
        ("a\rb\x9b2J\x7f", "a\\rb\\x9b2J\\x7f"),
        ("line\n\tnext \U0001f469\u200d\U0001f4bb Übung", "line\n\tnext \U0001f469\u200d\U0001f4bb Übung"),
    ],
)
def test_plain_text_shows_what_a_terminal_would_obey(text, shown):
    assert plain(text) == shown


@mark.parametrize("command", ["recipes show", "recipes list", "inspect demo --recipe", "recipes validate"])
def test_text_of_a_recipe_is_shown_and_not_obeyed(command, tmp_path, monkeypatch, capsys):
    file = tmp_path / "odd\x1b[1m [bold]name[.yaml"
    text = "\\e[31mred [/] [link=http://x]y[/link]"
    file.write_text(f'description: "{text}"\nrules: [{{match: "*", policy: {{method: radial}}}}]')
    words = command.split() + ([] if command.endswith("list") else [str(file)])
    if command == "recipes list":
        recipes = importlib.import_module("accel.cli.commands.recipes")
        monkeypatch.setattr(recipes, "shipped_recipes", lambda: {"odd": file.read_text()})
    monkeypatch.setattr(sys, "argv", ["accel", *words])
    monkeypatch.setenv("COLUMNS", "100")
    with raises(SystemExit) as stopped:
        main()
    told = "".join(capsys.readouterr())
    assert not stopped.value.code and "\x1b" not in told
    assert ("[link=http://x]y[/link]" in told) or "validate" in command


def test_a_terminal_of_ascii_stops_no_sentence():
    words = "'accel', 'recipes', 'show', 'nö\\u202e'"
    code = f"import sys; sys.argv = [{words}]; from accel.cli.app import main; main()"
    done = python(code, PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and "n\\xf6\\u202e" in done.stderr and "Traceback" not in done.stderr


def test_a_narrow_terminal_still_shows_the_cells():
    code = "import sys; sys.argv = ['accel', 'recipes', 'list']; from accel.cli.app import main; main()"
    told = python(code, COLUMNS="8", NO_COLOR="1").stdout
    assert "auto" in told and "\x1b" not in told


@mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full is a device of Linux")
def test_output_that_is_full_or_closed_is_no_traceback():
    code = (
        "import sys; sys.argv = ['accel', 'recipes', 'show', 'auto']; from accel.cli.app import main; main()"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-u", "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1 and "Traceback" not in done.stderr
