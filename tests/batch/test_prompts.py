"""A prompts file is read whole, or refused with every mistake in it."""

import json
from pathlib import Path

from pytest import fixture, mark, raises

from accel.batch.prompts import PromptError, read_prompts

DEFAULTS = {"height": 64, "width": 80, "num_frames": 9, "seed": 5}


@fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "prompts.jsonl"
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_line_says_what_differs_from_the_defaults(write):
    path = write({"prompt": "a cat"}, "", {"prompt": "a dog", "name": "dog", "seed": 7, "width": 96})
    cat, dog = read_prompts(path, DEFAULTS)
    assert (cat.line, dog.line) == (1, 3) and dog.name == "dog"
    assert (cat.settings.seed, cat.settings.width) == (5, 80)
    assert (dog.settings.seed, dog.settings.width, dog.settings.height) == (7, 96, 64)


def test_a_name_is_made_of_the_prompt_and_all_settings(write):
    jobs = read_prompts(write(*({"prompt": "A Cat, über alles!", "seed": seed} for seed in (1, 2))), DEFAULTS)
    again = read_prompts(write({"prompt": "A Cat, über alles!", "seed": 2}), DEFAULTS)
    assert jobs[0].name.startswith("a-cat-ber-alles-") and jobs[0].name != jobs[1].name
    assert again[0].name == jobs[1].name
    assert read_prompts(write({"prompt": "猫"}), DEFAULTS)[0].name.startswith("video-")


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes('\ufeff{"prompt": "a cat"}\r\n{"prompt": "a\u2028dog"}\r\n'.encode())
    assert [job.settings.prompt for job in read_prompts(path, DEFAULTS)] == ["a cat", "a\u2028dog"]


MISTAKES = {
    "unknown key": ({"prompt": "a", "sed": 1}, "unknown key 'sed'; did you mean 'seed'?"),
    "command line's word": ({"prompt": "a", "frames": 9}, "unknown key 'frames'; did you mean 'num_frames'?"),
    "no prompt": ({"seed": 1}, "prompt: this key is required"),
    "empty prompt": ({"prompt": "  "}, "prompt: "),
    "text for a number": ({"prompt": "a", "seed": "1"}, "seed: input should be a valid integer, got '1'"),
    "two sizes": ({"prompt": "a", "height": [64, 96]}, "height: input should be a valid integer"),
    "an image that is a number": ({"prompt": "a", "image": 3}, "image: "),
    "half a character": ({"prompt": "a\ud800"}, "prompt: holds bytes that are not UTF-8 text"),
    "huge seed": ({"prompt": "a", "seed": 2**63}, "seed: input should be less than 9223372036854775808"),
    "no frames": ({"prompt": "a", "num_frames": 0}, "num_frames: "),
    "not a number": ('{"prompt": "a", "guidance_scale": NaN}', "guidance_scale: "),
    "a path for a name": ({"prompt": "a", "name": "../a"}, "name: "),
    "a hidden name": ({"prompt": "a", "name": ".a"}, "name: "),
    "no JSON": ('{"prompt": "a"', "is not JSON: Expecting ',' delimiter at column 15"),
    "deep": ("[" * 100_000, "is not JSON"),
    "no object": ('"a cat"', 'expected an object like {"prompt": "a cat"}, got "a cat"'),
}


@mark.parametrize("case", MISTAKES)
def test_a_bad_line_is_named_with_file_line_and_key(write, case):
    line, expected = MISTAKES[case]
    path = write({"prompt": "fine"}, line)
    with raises(PromptError) as refused:
        read_prompts(path, DEFAULTS)
    assert f"{path}:2: {expected}" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_all_mistakes_are_told_at_once(write):
    path = write({"prompt": "a", "sed": 1}, {"prompt": "b"}, "no")
    with raises(PromptError) as refused:
        read_prompts(path, DEFAULTS)
    assert [line.split(": ")[0] for line in str(refused.value).splitlines()] == [f"{path}:1", f"{path}:3"]


@mark.parametrize("second", ["cat", "CAT"])
def test_a_name_that_is_taken_is_refused(write, second):
    path = write({"prompt": "a", "name": "cat"}, {"prompt": "b", "name": second})
    with raises(PromptError, match=rf"{path}:2: name: '{second}' is taken by line 1"):
        read_prompts(path, DEFAULTS)


def test_the_same_line_twice_is_refused(write):
    with raises(PromptError, match="is taken by line 1; give one of them another name or seed"):
        read_prompts(write({"prompt": "a"}, {"prompt": "a", "seed": 5}), DEFAULTS)


def test_a_file_without_prompts_or_without_text_is_refused(write, tmp_path):
    with raises(PromptError, match="holds no prompts"):
        read_prompts(write("", " "), DEFAULTS)
    with raises(PromptError, match="cannot be read: No such file"):
        read_prompts(tmp_path / "none.jsonl", DEFAULTS)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with raises(PromptError, match="is not UTF-8 text"):
        read_prompts(tmp_path / "binary.jsonl", DEFAULTS)


def test_a_line_takes_every_setting_and_finds_its_files_beside_the_prompts(write):
    line = {"prompt": "a", "image": ["first.png", "last.png"], "video": "in.mp4", "strength": 0.5, "fps": 12}
    path = write(line, {"prompt": "b", "image": "one.png"})
    first, second = read_prompts(path, {"fps": 8.0, "max_sequence_length": 32})
    folder = Path(path).parent
    assert first.settings.image == (str(folder / "first.png"), str(folder / "last.png"))
    assert first.settings.video == str(folder / "in.mp4") and first.settings.fps == 12
    assert second.settings.image == (str(folder / "one.png"),) and second.settings.fps == 8
    assert second.settings.max_sequence_length == 32
