"""accel complete: the embedded model answers, dense and accelerated, and says what it took."""

import json

import torch
from pytest import fixture, mark, raises
from typer.testing import CliRunner

import tiny_language
from accel.cli.app import app
from accel.demo.needle import needle_prompt
from accel.load.language_model import load_language_model
from accel.load.pipeline import LoadError
from accel.recipe.choose import default_recipe_name
from accel.recipe.files import load_recipe
from accel.recipe.recipe import DENSE
from accel.run.complete import Completion, agreement, check_length
from accel.run.complete import complete as run


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
