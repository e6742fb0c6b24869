"""The likeliest mistakes at the command line: one sentence, code 2, and nothing written."""

import importlib
import sys
import tempfile

import torch
from pytest import mark, raises

from accel.cli.app import main
from accel.cli.options import require_writable
from accel.files import text_of

# The modules: in the package these names may be the commands.
app, bench, complete, asked = (
    importlib.import_module(f"accel.cli.{name}")
    for name in ("app", "commands.bench", "commands.complete", "asked")
)

MISTAKES = {
    "generate --device gpu": "device 'gpu' is unknown",
    "generate --model demo-llm a-cat": "the demo to generate is 'demo'",
    "generate --set x=&a": "anchors and aliases",
    "generate --set =1": "expected key.path=value",
    "generate --seed 99999999999999999999": "--seed: input should be less than",
    "generate --guidance nan": "--guidance: input should be a finite number",
    "generate --output /dev/null/a.mp4": "does not exist",
    "generate --out clips": "--out clips is the folder for --prompts",
    "generate --dense --only-dense": "give one of them",
    "generate --only-dense --recipe radial": "--only-dense runs without a recipe",
    "complete --only-dense --set dense_steps=0": "--only-dense runs without a recipe",
    "complete --set dense_stps=0": "did you mean 'dense_steps'?",
    "complete --recipe radial": "radial needs a token grid",
    "tune demo --target ssim>0.9 --prompts /dev/zero/x": "cannot be read: Not a directory",
    "tune m --target perplexity<2 --text none.txt --text b": "--text none.txt: cannot be read: No such file",
    "tune m --target ssim>0.9 --text /dev/null --text /dev/null": "of a language model it is",
    "tune m --target perplexity<2 --text /dev/null": "at least two texts",
    "tune demo --target ssim>0.9 --block \u00b2x64": "expected query rows x key rows",
    "tune demo --target ssim>0.9 --block 64x65": "block size 64x65: query rows are 16 or 32 or 64 or 128",
    "tune demo --target ssim>0.9 --steps 1": "steps is 1: every recipe that is tried runs the first",
    "tune demo --target ssim>0.9 --kept-aside 99": "one of them to choose on; got 20, with 99 kept aside",
    "complete --model any --prompt-file /dev/null": "the prompt is empty",
    "generate --prompts p.jsonl --out o -o a.mp4": "--prompts takes --out, and not --output",
    "generate --prompts p.jsonl": "--prompts needs --out",
    "generate --height 0": "--height: input should be greater than or equal to 1",
    "generate --height 99999999999": "--height: input should be less than or equal to 16384",
    "generate --height 100": "--height 100: take 96 or 112",
    "generate --width -8": "--width: input should be greater",
    "generate --steps many": "Invalid value for '--steps'",
    "generate --frames 1e3": "Invalid value for '--frames'",
    "generate --strength 2 --video v.mp4": "--strength: input should be less than or equal to 1",
    "generate --fps 1e-9": "--fps: input should be greater than or equal to 0.01",
    "generate --fps inf": "--fps:",
    "generate --image a.png": "WanPipeline takes no --image",
    "generate --video none.mp4": "none.mp4: no such file",
    "generate --device=": "--device: string should have at least 1 character",
    "generate --dtype int8": "--dtype: input should be 'bfloat16', 'float16' or 'float32'",
    "generate --offload disk": "--offload: input should be 'model', 'group' or 'sequential'",
    "generate --offload model --device cpu": "--offload model needs an accelerator",
    "generate --quantize int3": "--quantize: input should be",
    "generate --quantize quanto-int8": "pip install optimum-quanto",
    "generate --lora none.safetensors": "no such file or folder of LoRA weights",
    "generate --lora none": "not a hub id (OWNER/NAME)",
    "generate --lora .": "expected one .safetensors file in this folder, found none",
    "generate --lora a/b=1e400": "expected SOURCE or SOURCE=SCALE",
    "generate --lora =": "--lora",
    "generate --output video.png": "ends in .mp4 or .gif",
    "compare --output /dev/null/out": "--output /dev/null/out: cannot write there",
    "compare --set dense_stps=1": "did you mean 'dense_steps'?",
    "compare --steps 0": "--steps: input should be greater",
    "tune demo --target ssim>0.9 --prompts none.txt": "--prompts none.txt: cannot be read: No such file",
    "complete --prompt-file none.txt": "--prompt-file none.txt: cannot be read: No such file",
    "complete --prompt-file .": "--prompt-file .: cannot be read: Is a directory",
    "complete --model demo": "the demo to complete is 'demo-llm'",
    "recipes show radial.yaml": "is called 'radial', without .yaml",
    "recipes show nope": "no shipped recipe is called 'nope'",
    "recipes validate none.yaml": "cannot be read",
    "inspect demo --recipe radail": "did you mean 'radial'",
    "inspect demo --height 1": "must be at least 1",
    "bench prefill --shape llama": "shape must be one of",
    "bench prefill --recipe radial": "radial needs a token grid",
    "bench prefill --recipe llm-a-shape --density 0.3": "unknown key 'density'",
    "bench prefill --lengths a": "numbers separated by commas",
    "bench prefill --lengths 1024 --device gpu": "device 'gpu' is unknown",
    "bench prefill --out x.txt": ".csv, .json or .svg",
}


LONG = "a" * 5000


@mark.parametrize(
    "command",
    [
        f"inspect {LONG}",
        f"inspect demo --recipe {LONG}",
        f"inspect demo --recipe {LONG}.yaml",
        f"complete --model {LONG}.gguf",
        f"generate --lora {LONG}",
    ],
)
def test_a_name_that_is_too_long_is_a_mistake(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accel", *command.split(), *(["x"] if "complete" in command else [])])
    with raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2


@mark.parametrize("command", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["accel", *command.split()])
    with raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and MISTAKES[command] in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())


@mark.parametrize(
    "command", ["generate --output a.mp4", "bench prefill --out a.svg", "complete --prompt-file a.txt"]
)
def test_files_are_tried_before_the_work(command, tmp_path, monkeypatch, capsys):
    """What cannot be written, or read, is found out before a model is loaded."""
    monkeypatch.chdir(tmp_path)
    name = command.split()[-1]
    if name == "a.txt":
        (tmp_path / name).write_bytes(b"\xff\xfe")
    else:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "argv", ["accel", *command.split()])
    for module, loader in (
        (asked, "load_pipeline"),
        (bench, "random_model"),
        (complete, "load_language_model"),
    ):
        monkeypatch.setattr(module, loader, lambda *what: (_ for _ in ()).throw(AssertionError("loaded")))
    with raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and name in capsys.readouterr().err


def test_a_byte_order_mark_is_not_part_of_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("a cat", encoding="utf-8-sig")
    assert text_of(tmp_path / "a.txt", "--prompts a.txt") == "a cat"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(**where):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with raises(ValueError, match=r"cannot write to .*: Permission denied"):
        require_writable("--output", tmp_path / "a.mp4", (".mp4",))


def test_running_out_of_memory_is_a_failure_told_in_a_sentence(monkeypatch, capsys):
    def run():
        raise torch.OutOfMemoryError("tried to allocate 2 TiB")

    monkeypatch.setattr(app, "app", run)
    with raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1 and "out of memory: tried to allocate 2 TiB" in capsys.readouterr().err
