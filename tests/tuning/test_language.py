"""Tuning language models: facts planted in texts, ratios to dense, and a whole tuning of a tiny model."""

import copy
import json
import math
from types import SimpleNamespace

import torch
from pytest import approx, fixture, mark, raises
from transformers import LlamaConfig, LlamaForCausalLM

from accel.cli.commands.tune import _tune_language
from accel.files import alone_in
from accel.mistake import Mistake
from accel.recipe.files import load_recipe, recipe_data
from accel.tuning.language.readings import Readings
from accel.tuning.language.search import LanguagePoint, TunedLanguage, recipe_at, recipe_file, tune_language
from accel.tuning.language.texts import NAMES, Reading, plant, read
from accel.tuning.point import Unreachable
from accel.tuning.target import Target

TEXTS = tuple(f"The {number} quick brown foxes jump over lazy dogs. " * 24 for number in range(4))


class Letters:
    """A tokenizer whose tokens are bytes."""

    bos_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        return SimpleNamespace(input_ids=list(text.encode()))


@fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=256, max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_facts_are_planted_and_asked_for():
    sample = plant(Letters(), TEXTS[0], 3, 1000)
    written = bytes(sample.tokens.tolist()[1:]).decode()
    assert sample.tokens[0] == 0 and len(sample.answers) == len(NAMES)
    for name, answer in zip(NAMES, sample.answers, strict=True):
        told, asked = written.split(f"The secret code of {name} is ")[1:]
        answered = bytes(sample.tokens[answer].tolist()).decode()
        assert answered.strip() == told[:5] == asked[:5] and told[:5].isdigit()
    assert "foxes" in written.split("amber")[0] and written.split("delta")[1].startswith(" is")
    assert sample.judged.min() >= len(TEXTS[0][:1000]) // 2
    assert sample.judged.max() < min(answer.min() for answer in sample.answers)


def test_short_texts_are_refused():
    with raises(Mistake, match="at least 512"):
        plant(Letters(), "short", 0, 4096)


def test_every_block_is_dense_attention(model):
    sample = plant(Letters(), TEXTS[1], 0, 1100)
    dense, whole, half = (
        read(model, sample),
        read(model, sample, recipe_at(1.0)),
        read(model, sample, recipe_at(0.3)),
    )
    assert whole.loss == approx(dense.loss, rel=1e-4) and whole.work == approx(1.0)
    assert half.work < 0.7 and half.loss != dense.loss


def reading(loss, found):
    return Reading(loss, found, 1.0, 0.5)


def test_figures_are_relative_to_dense():
    pairs = (
        (reading(2.1, (True, False, False)), reading(2.0, (True, True, False))),
        (reading(3.3, (True, True, True)), reading(3.0, (True, False, False))),
    )
    point = LanguagePoint(0.2, recipe_at(0.2), pairs)
    assert point.perplexity == approx(math.exp(0.2))
    assert point.retrieval == approx(2 / 3)
    # 0.1 and 0.3: a mean of 0.2 with a standard error of 0.1; Student's t is 1.376.
    assert point.cautious(Target("perplexity", 1.5)) == approx(math.exp(0.2 + 1.376 * 0.1 * 2**0.5), rel=0.01)
    blind = LanguagePoint(0.2, recipe_at(0.2), ((reading(1, (True,)), reading(1, (False,))),))
    with raises(Mistake, match="finds none of the facts"):
        blind.value(Target("retrieval", 0.9))


def test_a_whole_tuning(model, tmp_path):
    said = []
    found = tune_language(
        model, Letters(), TEXTS, "perplexity<1.1", most_tokens=1100, folder=tmp_path,
        progress=lambda *what: said.append(what),
    )  # fmt: skip
    assert found.reached.perplexity <= 1.1 and found.held_out is not None
    assert len(found.held_out.pairs) == 2 and said[0][0].startswith("dense: text 1 of 4")
    path = recipe_file(found, "tiny", ["a", "b"], tmp_path / "mine.yaml")
    assert load_recipe(path).rules == found.reached.recipe.rules
    assert "Kept aside: density" in path.read_text()


@mark.parametrize(
    ("target", "texts", "says"),
    [("ssim>0.9", TEXTS, "of a language model"), ("perplexity<1.1", TEXTS[:1], "at least two texts")],
)
def test_what_means_nothing_is_refused(model, target, texts, says, tmp_path):
    with raises(Mistake, match=says):
        tune_language(model, Letters(), texts, target, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_reached_is_refused_with_the_best(model, tmp_path):
    with raises(Unreachable, match="the best result is density"):
        tune_language(model, Letters(), TEXTS, "speedup>50", most_tokens=600, folder=tmp_path)


def test_an_interrupted_tuning_continues_where_it_was(model, monkeypatch, tmp_path):
    read_here = []

    def until_the_fourth(model, sample, recipe):
        read_here.append(recipe)
        if len(read_here) == 4:
            raise KeyboardInterrupt
        return read(model, sample, recipe)

    monkeypatch.setattr("accel.tuning.language.readings.read", until_the_fourth)

    def tuned(texts=TEXTS[:2], of=model):
        return tune_language(of, Letters(), texts, "perplexity<1.001", most_tokens=600, folder=tmp_path)

    with raises(KeyboardInterrupt):
        tuned()
    before = json.loads((tmp_path / "results.json").read_text())
    found = tuned()
    after = json.loads((tmp_path / "results.json").read_text())
    assert len(before) == 3 and before.items() <= after.items() and len(after) == len(read_here) - 1
    assert tuned() == found and len(after) == len(read_here) - 1
    # Another text, other weights, other versions: nothing of it is known.
    tuned((TEXTS[0], TEXTS[2]))
    assert len(read_here) > len(after) + 1
    with torch.no_grad():
        (other := copy.deepcopy(model)).lm_head.weight[0, 0] += 1
    for change in (
        lambda: tuned(of=other),
        lambda: monkeypatch.setattr("accel.tuning.language.readings.versions", dict) or tuned(),
    ):
        known = len(read_here)
        change()
        assert len(read_here) >= known + 3


def test_a_folder_that_is_damaged_or_in_use_is_refused(model, tmp_path):
    with alone_in(tmp_path), raises(BlockingIOError, match="another run is writing to this folder"):
        tune_language(model, Letters(), TEXTS, "perplexity<1.1", most_tokens=600, folder=tmp_path)
    readings, sample = Readings(model, tmp_path), plant(Letters(), TEXTS[0], 0, 600)
    assert readings.of(sample) == Readings(model, tmp_path).of(sample)
    kept = (tmp_path / "results.json").read_text()
    for text in (kept[:50], kept.replace("loss", "lost"), kept.replace("[", "1,").replace("]", "")):
        (tmp_path / "results.json").write_text(text)
        with raises(Mistake, match="is damaged; delete it"):
            Readings(model, tmp_path).of(sample)


def test_the_command_says_where_nothing_is_gained(model, monkeypatch, tmp_path, capsys):
    point = LanguagePoint(
        0.2, recipe_at(0.2), ((Reading(1, (True,), 2.0, 0.5), Reading(1, (True,), 1.0, 1.0)),)
    )
    target = Target("perplexity", 1.1)
    found = TunedLanguage(target, recipe_data(point.recipe), point, None, (point,))
    monkeypatch.setattr("accel.load.language_model.load_language_model", lambda *args: (model, Letters()))
    monkeypatch.setattr("accel.tuning.language.search.tune_language", lambda *args, **rest: found)
    file = tmp_path / "text.txt"
    file.write_text(TEXTS[0])
    _tune_language("tiny", None, [file] * 2, target, None, tmp_path / "out")
    assert "slower than dense on this machine" in capsys.readouterr().out
