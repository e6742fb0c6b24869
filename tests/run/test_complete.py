"""accel complete: the embedded model answers, dense and accelerated, and says what it took."""

import copy
import json
from types import SimpleNamespace
from typing import ClassVar

import numpy
import torch
from pytest import fixture, importorskip, mark, raises
from typer.testing import CliRunner

import tiny_language
from accel.cli.app import app
from accel.comparison.quality import relative_error
from accel.demo.needle import needle_prompt
from accel.load import gguf
from accel.load.language_model import load_language_model
from accel.load.pipeline import LoadError
from accel.mistake import Mistake
from accel.recipe.choose import default_recipe_name
from accel.recipe.files import load_recipe
from accel.recipe.recipe import DENSE
from accel.run.complete import Completion, agreement, check_length, encoded
from accel.run.complete import complete as run
from accel.run.token_clock import TokenClock


@fixture(scope="module")
def demo():
    torch.set_num_threads(1)
    return load_language_model("demo-llm", "cpu")


@fixture(scope="module")
def question(demo):
    return needle_prompt(demo.tokenizer, 600)


def test_dense_run_is_what_the_stock_model_answers(demo, question):
    prompt, answer = question
    done = run(*demo, prompt, DENSE, max_new_tokens=3)
    ids = demo.tokenizer(prompt, return_tensors="pt")["input_ids"]
    expected = demo.model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
    assert list(done.tokens) == expected.tolist() and done.text.split()[0] == answer
    assert done.prompt_tokens == ids.shape[1] == 599
    assert done.seconds_to_first_token > 0 and done.tokens_per_second > 0
    assert demo.model.config._attn_implementation == "sdpa"


def test_one_token_has_no_rate_after_the_first(demo, question):
    assert run(*demo, question[0], DENSE, max_new_tokens=1).tokens_per_second is None


def completion(*tokens):
    return Completion("", tokens, 1, 1.0, None, None)


@mark.parametrize(
    "a, b, expected",
    [((1, 2, 3, 4), (1, 2, 3, 4), 1), ((1, 2, 3, 4), (1, 2, 9, 4), 0.5), ((1,), (1, 2), 0.5)],
)
def test_agreement_is_the_common_beginning(a, b, expected):
    assert agreement(completion(*a), completion(*b)) == expected


def test_prompts_that_do_not_fit_are_refused():
    with raises(ValueError, match="1020 tokens of prompt and 5 new ones are more than the 1024"):
        check_length(tiny_language.llama(), 1020, 5)
    with raises(ValueError, match="empty"):
        check_length(tiny_language.llama(), 0, 5)


def invoke(*arguments):
    return CliRunner().invoke(app, ["complete", "--device", "cpu", "--no-warm-up", *arguments])


def test_json_tells_both_runs_and_their_agreement(question, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(question[0])
    everything = ["--set", "min_tokens=0", "--set", "rules.0.policy.select.density=1"]
    everything += ["--max-new-tokens", "3"]
    result = invoke("--prompt-file", str(path), "--dense", "--json", *everything)
    data = json.loads(result.stdout.splitlines()[-1])
    assert data["agreement"] == 1 and data["accelerated"]["tokens"] == data["dense"]["tokens"]
    assert data["summary"]["dense_reasons"] == {"decode": 8} and data["expected"] is None
    assert data["times_faster"] > 0


def test_text_output_reads_well(question):
    result = invoke(question[0], "--max-new-tokens", "2", "--dense")
    assert result.exit_code == 0
    for part in ("seconds to the first token", "tokens a second", "agreement", "599 tokens of prompt"):
        assert part in result.stdout
    assert "nothing ran sparse" in result.stdout and "times as fast" not in result.stdout


@mark.parametrize(
    "arguments, error, message",
    [
        (["a", "--prompt-file", "b"], ValueError, "exclude"),
        (["a", "--model", "no/such-model"], LoadError, "cannot load"),
        (["--prompt-file", "no-such-file.txt"], ValueError, "no-such-file.txt: cannot be read"),
    ],
)
def test_mistakes_are_told(arguments, error, message):
    result = invoke(*arguments)
    assert isinstance(result.exception, error) and message in str(result.exception)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with raises(LoadError, match=r"no config\.json"):
        load_language_model(str(tmp_path))


@mark.parametrize("build", tiny_language.LANGUAGE_MODELS.values(), ids=tiny_language.LANGUAGE_MODELS)
def test_every_language_model_has_a_default_recipe(build):
    assert default_recipe_name({"": build()}) == "llm-wanted"
    assert load_recipe("llm-wanted").rules[0].policy.score.kind == "wanted"


def test_text_is_shown_as_it_comes(demo, question):
    parts = []
    done = run(*demo, question[0], DENSE, max_new_tokens=4, show=parts.append)
    assert "".join(parts) == done.text and len([part for part in parts if part]) > 1


class Letters:
    """A tokenizer whose second token completes the character that the first begins."""

    words: ClassVar = {0: b"a", 1: b"\xc3", 2: b"\xa9", 3: b"\n"}

    def decode(self, tokens, skip_special_tokens):
        tokens = tokens if isinstance(tokens, list) else [tokens]
        return b"".join(self.words[token] for token in tokens).decode(errors="replace")


def test_half_a_character_is_held_back_until_the_other_half_is_there():
    parts: list[str] = []
    clock = TokenClock(Letters(), parts.append)
    for token in (0, 0, 1, 2, 3, 0):
        clock.put(torch.tensor([token]))
    clock.end()
    assert "".join(parts) == "a\u00e9\na" and not any("\ufffd" in part for part in parts)
    assert len(clock.ticks) == 6


def test_a_prompt_goes_into_the_chat_template_of_a_model_that_has_one(demo):
    plain = encoded(demo.tokenizer, "w1 w2", chat=False)["input_ids"]
    with raises(Mistake, match="no chat template"):
        encoded(demo.tokenizer, "w1 w2", chat=True)
    tokenizer = copy.deepcopy(demo.tokenizer)
    tokenizer.chat_template = "{{ messages[0]['content'] }} {{ messages[0]['content'] }}"
    chat = encoded(tokenizer, "w1 w2", chat=True)
    assert chat["input_ids"].shape[1] > plain.shape[1] and "attention_mask" in chat


def test_what_a_gguf_model_needs_is_said_with_the_command_that_helps(monkeypatch, tmp_path):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    for model in ("smollm2", str(tmp_path / "a.gguf")):
        with raises(LoadError, match=r"needs gguf: pip install 'sparse-accel\[smollm2\]'"):
            load_language_model(model, "cpu")
    with raises(LoadError, match="no such file"):
        load_language_model(str(tmp_path / "b.gguf"), "cpu")


@fixture
def without_smollm2(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    installed = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(gguf, "find_spec", lambda name: installed)


def test_smollm2_is_the_file_of_its_wheel_or_the_one_downloaded(without_smollm2, tmp_path):
    assert gguf.smollm2() is None
    fetched = tmp_path / "cache" / "sparse-accel" / "weights" / "smollm2.gguf"
    for file in (fetched, tmp_path / "SmolLM2.gguf"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"GGUF")
        assert gguf.gguf_of("smollm2") == file


def test_smollm2_is_downloaded_only_where_that_was_agreed_to(without_smollm2, monkeypatch):
    fetched = []
    monkeypatch.setattr("accel.cli.commands.complete.fetch_smollm2", lambda: fetched.append(1))
    refused = invoke("a", "--model", "smollm2")
    assert not fetched and isinstance(refused.exception, LoadError)
    assert "accel complete --model smollm2 --fetch" in str(refused.exception)
    invoke("a", "--model", "smollm2", "--fetch")
    assert fetched == [1]
    assert "--fetch is for --model smollm2" in str(invoke("a", "--fetch").exception)


LAYERS, WIDTH, HEADS = 2, 64, 4


def write_gguf(path):
    """A Llama as llama.cpp writes it: weights in Q8_0, norms in float32, the tokenizer in the file."""
    gguf = importorskip("gguf")
    random = numpy.random.default_rng(0)
    letters = [*map(chr, range(33, 127)), "th", "is", "\u0120", "<|endoftext|>"]
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in {
        "block_count": LAYERS, "context_length": 1024, "embedding_length": WIDTH, "vocab_size": len(letters),
        "head_count": HEADS, "head_count_kv": HEADS // 2, "feed_forward_length": 2 * WIDTH,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(letters)
    writer.add_token_merges(["t h", "i s"])
    writer.add_eos_token_id(len(letters) - 1)
    kind = gguf.GGMLQuantizationType.Q8_0
    shapes = {"token_embd": (len(letters), WIDTH), "output": (len(letters), WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.attn_{part}": (WIDTH, WIDTH) for part in ("q", "output")}
        shapes |= {f"blk.{layer}.attn_{part}": (WIDTH // 2, WIDTH) for part in ("k", "v")}
        shapes |= {f"blk.{layer}.ffn_{part}": (2 * WIDTH, WIDTH) for part in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (WIDTH, 2 * WIDTH)}
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{part}.weight", numpy.ones(WIDTH, numpy.float32))
    writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, numpy.float32))
    weights = {name: random.standard_normal(shape).astype(numpy.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return weights


def test_a_gguf_file_is_completed(tmp_path):
    weights = write_gguf(tmp_path / "tiny.gguf")
    loaded = load_language_model(str(tmp_path / "tiny.gguf"), "cpu")
    values = loaded.model.model.layers[1].self_attn.v_proj.weight.detach()
    assert 0 < relative_error(values, torch.from_numpy(weights["blk.1.attn_v"])) < 0.01
    text = "this is a text " * 30
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    expected = loaded.model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :].tolist()
    words = [text, "--model", str(tmp_path / "tiny.gguf"), "--max-new-tokens", "4", "--dense", "--json"]
    words += ["--recipe", "llm-permuted", "--set", "min_tokens=0", "--set", "block_size=[16, 16]"]
    everything = invoke(*words, "--set", "max_density=1", "--set", "min_density=1")
    data = json.loads(everything.stdout.splitlines()[-1])
    assert data["dense"]["tokens"] == data["accelerated"]["tokens"] == expected
    assert data["summary"]["sparse_density"] >= 1
    sparse = json.loads(
        invoke(*words, "--set", "mass=0.3", "--set", "dense_queries=0").stdout.splitlines()[-1]
    )
    assert sparse["summary"]["sparse_density"] < 1


@mark.parametrize("content", [b"", b"GGUF", b"not a GGUF file" * 100])
def test_a_damaged_gguf_file_is_a_load_error(tmp_path, content):
    importorskip("gguf")
    (tmp_path / "a.gguf").write_bytes(content)
    with raises(LoadError, match=r"cannot load .*a\.gguf"):
        load_language_model(str(tmp_path / "a.gguf"), "cpu")


def test_the_command_refuses_what_excludes_one_another():
    done = invoke("--dense", "--only-dense")
    assert isinstance(done.exception, Mistake)
