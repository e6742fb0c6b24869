"""Tests find tiny models and tokenizers where the hub gives nothing, and what an older library had."""

import subprocess
import sys

import pytest
import torch
from transformers import CLIPTokenizer, LlamaTokenizer, Qwen2Tokenizer, T5EncoderModel, T5TokenizerFast

from scripts.suites.offline import model, sizes, tokenizer, where_absent
from scripts.suites.older import fill


@pytest.mark.parametrize("cls", [CLIPTokenizer, LlamaTokenizer, Qwen2Tokenizer, T5TokenizerFast])
def test_tokenizers_tell_letters_apart(cls):
    made = tokenizer(cls)
    read = made(["a cat", "a dog"], padding="max_length", max_length=20, truncation=True)["input_ids"]
    assert [len(ids) for ids in read] == [20, 20] and read[0] != read[1]
    assert max(map(max, read)) < 200


def test_a_model_is_the_same_each_time_and_leaves_the_seed_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = (model(T5EncoderModel, "somebody/tiny-random-t5", "") for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_only_what_is_absent_and_known_is_made(tmp_path):
    class Library:
        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path, subfolder=None):
            return f"the library's {pretrained_model_name_or_path}"

    where_absent(Library, "config.json", lambda cls, name, folder: (sizes(name, folder), "ours")[1])
    assert Library.from_pretrained("somebody/tiny-random-t5") == "ours"
    assert Library.from_pretrained(pretrained_model_name_or_path="somebody/tiny-random-t5") == "ours"
    assert Library.from_pretrained(pretrained_model_name_or_path=tmp_path) == f"the library's {tmp_path}"
    assert Library.from_pretrained("somebody/large") == "the library's somebody/large"
    assert Library.from_pretrained(str(tmp_path)) == f"the library's {tmp_path}"


def test_names_of_an_older_release_are_added_and_no_name_is_replaced(tmp_path):
    source = tmp_path / "src" / "transformers" / "testing_utils.py"
    source.parent.mkdir(parents=True)
    source.write_text("require_older = 1\nrequire_torch = 2\n")
    check = (
        "from pathlib import Path; from scripts.suites.older import fill; fill('transformers', Path({!r}));"
        "from transformers import testing_utils as t; assert t.require_older == 1 and t.require_torch != 2"
    )
    subprocess.run([sys.executable, "-c", check.format(str(tmp_path))], check=True)


def test_a_checkout_without_sources_needs_no_older_names(tmp_path):
    fill("transformers", tmp_path)
    assert not list(tmp_path.iterdir())
