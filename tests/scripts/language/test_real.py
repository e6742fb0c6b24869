"""The bench of real language models: prompts are what they say, rows are counted right, runs resume."""

import json
from argparse import Namespace
from dataclasses import asdict

import torch
from pytest import approx, fixture, mark, raises

from accel import load_recipe
from accel.load.language_model import load_language_model
from accel.policies.parts.scores import Wanted
from accel.recipe.recipe import DENSE
from scripts.language import attention_time, decoding, real
from scripts.language.facts import CHOOSING, FACTS, REPORTING, SPLITS, draw
from scripts.language.real_report import PAGE, page
from scripts.language.texts import TEXTS, library, reference
from scripts.page import insert
from scripts.row_file import append_line, read_lines


class Letters:
    """A tokenizer of single characters, the first token always 0."""

    def __call__(self, text, add_special_tokens=True):
        return Namespace(input_ids=[0] * add_special_tokens + [ord(letter) for letter in text])


TEXT = [ord(letter) for letter in "once upon a time " * 1000]


@mark.parametrize("number", range(6))
@mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_every_answer_was_told_before_it_is_asked_for(split, number):
    prompt = draw(Letters(), TEXT, 6000, split, number)
    assert prompt.tokens.shape == (1, 6000) and len(prompt.answers) == 2 * FACTS
    letters = "".join(map(chr, prompt.tokens[0, 1:].tolist()))
    for place, first, count in prompt.answers:
        asked = letters[first - 1 : first - 1 + count].strip()
        assert letters.index(asked) < 0.55 * 6000 if place == "scattered" else letters.index(asked) < first
        assert letters[: first - 1].count(asked) >= 1
    ends = [first for place, first, _ in prompt.answers if place == "end"]
    assert min(ends) > max(first for place, first, _ in prompt.answers if place == "scattered")
    assert {chr(token) for token in prompt.tokens[0, prompt.text].tolist()} <= set("once upon a time ")


def test_nothing_that_settings_are_chosen_on_is_reported_on():
    for field in ("names", "words"):
        assert not set(getattr(CHOOSING, field)) & set(getattr(REPORTING, field))
    for field in ("texts", "wordings"):
        shared = set(getattr(CHOOSING, field).values()) & set(getattr(REPORTING, field).values())
        assert not shared
    assert set(CHOOSING.texts.values()) | set(REPORTING.texts.values()) <= set(TEXTS)


def test_texts_are_real():
    assert len(reference()) > 100_000
    assert "def " in library(("heapq",))


def test_answers_are_counted_by_place():
    prompt = draw(Letters(), TEXT, 6000, CHOOSING, 0)
    counts = [count for _, _, count in prompt.answers]
    right = torch.ones(sum(counts), dtype=torch.bool)
    right[0] = False  # of the first answer, which is one of those all over the text
    account = real.by_place(prompt, right, torch.full((sum(counts),), 0.5))
    assert account["exact"] == {"scattered": FACTS - 1, "end": FACTS}
    assert account["found"]["scattered"] == account["asked_for"]["scattered"] - 1
    assert account["answer_nll"] == {"scattered": approx(0.5), "end": approx(0.5)}


@fixture(scope="module")
def demo():
    torch.set_num_threads(1)
    return load_language_model("demo-llm", "cpu")


def test_full_density_measures_what_dense_does(demo):
    tokens = torch.randint(300, (1, 300), generator=torch.Generator().manual_seed(0))
    prompt = real.Prompt(tokens, (("scattered", 200, 2), ("end", 290, 3)), torch.arange(20, 180))
    dense = real.measure(demo.model, prompt, DENSE)
    whole = real.measure(demo.model, prompt, real.recipe_of("oracle", 1.0, 300, 0))
    assert dense["density"] == whole["density"] == 1.0
    assert whole["text_nll"] == approx(dense["text_nll"], abs=1e-4) and whole["found"] == dense["found"]
    every = real.measure(demo.model, prompt, real.EVERYTHING)
    assert every["density"] == 1.0 and every["text_nll"] == approx(dense["text_nll"], abs=1e-4)
    assert real.measure(demo.model, prompt, real.recipe_of("oracle", 0.3, 300, 0))["density"] < 1


def test_decoding_with_a_budget_for_everything_answers_as_dense_does(demo):
    tokens = torch.randint(300, (1, 420), generator=torch.Generator().manual_seed(0))
    prompt = real.Prompt(tokens, (("scattered", 200, 2), ("end", 410, 3), ("end", 416, 2)), torch.arange(20))
    cache, start = decoding.prefill(demo.model, prompt)
    assert decoding.up_to(prompt, 1).tokens.shape[1] == 414 and len(decoding.up_to(prompt, 9).answers) == 2
    assert start == 410 - decoding.LONGEST_QUESTION and cache.get_seq_length() == start
    (dense,) = decoding.measure(demo.model, prompt, cache, start, None)
    assert (dense["asked_for"], dense["facts"], dense["density"]) == (5, 2, 1.0)
    ways = list(decoding.ways(256).values())
    for way, every in zip(ways, decoding.measure(demo.model, prompt, cache, start, ways), strict=True):
        assert every["nll"] == approx(dense["nll"], abs=1e-3), way
    bounds, channels = decoding.ways(32)["bounds"], decoding.ways(32)["channels"]
    (few,) = decoding.measure(demo.model, prompt, cache, start, [channels])
    assert few["density"] < 1 and cache.get_seq_length() == start, "each way has a cache of its own"
    together = decoding.measure(demo.model, prompt, cache, start, [bounds, channels])
    assert together[1] == {name: approx(value) for name, value in few.items()} != together[0]
    keys = {"split": "choosing", "model": "demo", "length": 420, "text": "code", "number": 0}
    text = decoding.page([keys | {"way": "channels", "budget": 32} | few])
    assert "### demo, 420 tokens, choosing" in text and "code 0, 2 questions" in text
    assert f"| channels | 32 | {few['density']:.3f} | {few['found']} of 5, {few['nll']:.2f} |" in text


def test_a_recipe_keeps_its_own_budget_where_that_is_asked_for():
    assert real.recipe_of("llm-permuted@ship", None, 4096, 0) == load_recipe("llm-permuted")
    exact = real.recipe_of("oracle@ship", None, 4096, 0).rules[0].policy
    shipped = load_recipe("llm-wanted").rules[0].policy
    assert exact.score == Wanted(query=1, channels=1.0) and exact.select == shipped.select
    turned = real.recipe_of("llm-permuted", 0.3, 4096, 0)
    assert turned.schedule.dense_queries == 0 and turned != load_recipe("llm-permuted")


def row(**changes):
    places = {"scattered": 6, "end": 6}
    fields = {
        "model": "m", "length": 64, "split": "choosing", "text": "prose", "number": 0, "method": "dense",
        "asked": None, "density": 1.0, "found": places, "asked_for": places, "exact": places, "facts": places,
        "answer_nll": places, "text_nll": 2.0, "cpu_seconds": 1.0, "seconds": 1.0,
    }  # fmt: skip
    return real.Row(**fields | changes)


def test_a_run_continues_where_the_file_ends(tmp_path):
    rows = [row(), row(number=1)]
    for each in rows:
        append_line(tmp_path / "rows.jsonl", asdict(each))
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"model": "cut"})[:-1])
    assert [real.Row(**each) for each in read_lines(tmp_path / "rows.jsonl")] == rows
    options = Namespace(
        model="m", lengths=[64], split="choosing", texts=["prose"], first=0, prompts=2, methods=[],
        densities=[0.3],
    )  # fmt: skip
    assert list(real.sweep(options, {each.key for each in rows})) == [], "no model is loaded for nothing"


def test_the_page_shows_what_rows_say(tmp_path):
    half = {"scattered": 3, "end": 6}
    rows = [row(), row(number=1, text_nll=3.0)]
    rows += [row(method="llm-wanted", asked=0.3, density=0.25, found=half, text_nll=2.5, cpu_seconds=0.5)]
    rows += [row(method="tried once"), row(method=str(tmp_path / "gone.yaml"))]
    path = tmp_path / "page.md"
    path.write_text(f"before\n<!-- {PAGE}: begin -->\nold\n<!-- {PAGE}: end -->\nafter\n")
    insert(path, PAGE, page(rows, real.prices(rows)))
    text = path.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert "m, 64 tokens, choosing: 2 prompts" in text and "| dense | - | 1.000 | 1.00 (1.00 to 1.00)" in text
    expected = "| llm-wanted (1 prompt) | 0.3 | 0.250 | 0.50 (0.50 to 0.50); dense 1.00 | 6 of 6 |"
    assert expected in text and "| +0.500 (+0.500 to +0.500) | 0.125 |" in text
    assert (
        "| prose 0 (6 + 6) | prose 1 (6 + 6) |" in text and "| dense | 6 + 6, 2.000 | 6 + 6, 3.000 |" in text
    )
    assert "| llm-wanted at 0.3 | 3 + 6, +0.500 |  |" in text
    assert "| tried once (1 prompt) |" in text and "| gone (1 prompt) |" in text, "without their recipes"
    cell = [row(split="reporting"), row(split="reporting", method="llm-wanted@ship", density=0.3)]
    line = "| m, 64 | 1 | 0.300 | 1.00 (1.00) | 1.00 (1.00) | +0.000 |"
    assert f"{line} - |" in page(cell, {})
    cell.append(row(split="reporting", method="oracle@ship", found=half, text_nll=1.5))
    assert f"{line} 0.50, 1.00, -0.500 |" in page(cell, {})
    cell += [row(split="reporting", number=1)]
    assert f"{line} 0.50, 1.00, -0.500 (1 prompt; dense 1.00, 1.00) |" in page(cell, {})
    path.write_text("a page without markers")
    with raises(ValueError, match="no lines"):
        insert(path, PAGE, "")


def test_choice_and_attention_are_timed_beside_dense(monkeypatch):
    monkeypatch.setitem(attention_time.SHAPES, "tiny", (4, 2, 16))
    times = attention_time.measure("tiny", 1024, "llm-permuted-bounds", 1)
    assert all(0 < seconds < 60 for part in ("dense", "choice", "attention") for seconds in times[part])
    assert 0 < times["density"][0] < 1
