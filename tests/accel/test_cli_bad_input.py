"""The likeliest mistakes at the command line: one sentence, code 2, and nothing written."""

import sys

from pytest import mark, raises

from accel.cli.app import main

MISTAKES = {
    "generate --device gpu": "device 'gpu' is unknown",
    "generate --model demo-llm a-cat": "the demo to generate is 'demo'",
    "generate --set x=&a": "anchors and aliases",
    "generate --set =1": "expected key.path=value",
    "complete --model demo": "the demo to complete is 'demo-llm'",
    "recipes show radial.yaml": "is called 'radial', without .yaml",
    "recipes show nope": "no shipped recipe is called 'nope'",
    "recipes validate none.yaml": "cannot be read",
    "inspect demo --recipe radail": "did you mean 'radial'",
    "inspect demo --height 1": "must be at least 1",
    "bench prefill --shape llama": "shape must be one of",
    "bench prefill --lengths a": "numbers separated by commas",
    "bench prefill --lengths 1024 --device gpu": "device 'gpu' is unknown",
    "bench prefill --out x.txt": ".csv, .json or .svg",
}


@mark.parametrize("command", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["accel", *command.split()])
    with raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and MISTAKES[command] in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())
