"""The needle task, its training script and the model it made."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from accel.demo.needle import BOS, FILLERS, KEYS, QUERY, VALUES, VOCAB_SIZE, NeedleTask, needle_prompt
from scripts.training import checkpoint as checkpoints
from scripts.training.budget import Budget
from scripts.training.checkpoint import average_of, save_checkpoint
from scripts.training.language import stage as needle_stage
from scripts.training.language import train as train_demo_llm
from scripts.training.language.redraw_weak_keys import accuracy_by_key, redraw_weak_keys
from scripts.training.language.stage import (
    CURRICULUM,
    Curriculum,
    NeedleStage,
    Settings,
    answer_loss,
    draw_batch,
)
from scripts.training.language.task import (
    MODEL,
    Batch,
    build_tokenizer,
    copied_segments,
    needles,
    stretched_positions,
)
from scripts.training.language.train import evaluate
from scripts.training.loop import train

pytestmark = pytest.mark.usefixtures("one_thread")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tiny(monkeypatch) -> LlamaConfig:
    """The model's configuration made small enough to train in a test."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    config = LlamaConfig(**needle_stage.CONFIG.to_dict() | small)
    monkeypatch.setattr(needle_stage, "CONFIG", config)
    return config


@pytest.fixture(scope="module")
def shipped() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "task", [NeedleTask(40, 1), NeedleTask(97, 8, 3), NeedleTask(641, 128, 128)], ids=str
)
def test_every_question_is_answered_once_by_a_needle(task):
    tokens, depths = task.sample(rng())
    body = tokens[: task.body].tolist()
    assert tokens[0] == BOS and len(tokens) == task.length
    assert sum(token in KEYS for token in body) == sum(token in VALUES for token in body) == task.pairs
    for answer, depth in zip(task.answers.tolist(), depths.tolist(), strict=True):
        query, key, value = tokens[answer - 2 : answer + 1].tolist()
        assert query == QUERY and body.count(key) == 1
        assert body[body.index(key) + 1] == value and value in VALUES
        assert depth == pytest.approx(body.index(key) / task.body)
    assert all(token in FILLERS or token in KEYS or token in VALUES for token in body[1:])


def test_needles_fall_everywhere_in_the_body():
    task, generator = NeedleTask(16, 2, 2), rng()
    places = {round(d * task.body) for _ in range(200) for d in task.sample(generator)[1].tolist()}
    assert places == set(range(1, task.body - 1))


@pytest.mark.parametrize(
    ("length", "pairs", "queries", "word"),
    [(64, 0, 1, "pairs"), (4096, 129, 1, "pairs"), (64, 4, 5, "queries"), (19, 8, 1, "fit")],
)
def test_an_impossible_task_is_refused(length, pairs, queries, word):
    with pytest.raises(ValueError, match=word):
        NeedleTask(length, pairs, queries)


def test_stretched_positions_keep_keys_and_values_together():
    generator = rng()
    tokens, _ = NeedleTask(200, 16, 16).sample(generator)
    reached = 0
    for _ in range(20):
        positions = stretched_positions(tokens, 5000, generator)
        steps = positions.diff()
        assert positions[0] == 0 and steps.min() >= 1 and positions[-1] < 5000
        assert (steps[tokens[1:] < FILLERS.start] == 1).all()
        reached = max(reached, int(positions[-1]))
    assert reached > 3000


def test_a_jump_in_positions_hides_nothing(tiny):
    model = LlamaForCausalLM(tiny)
    batch = needles(64, 2, [4], 4000, rng())
    assert (batch.positions[1].diff() > 1).any()
    changed = batch.tokens.clone()
    changed[1, 1] = (changed[1, 1] - KEYS.start + 1) % (VOCAB_SIZE - KEYS.start) + KEYS.start
    loss, _ = answer_loss(model, batch)
    other, _ = answer_loss(model, Batch(changed, batch.positions, batch.scored))
    assert loss != other


def test_copied_segments_are_scored_on_tokens_seen_before():
    batch = copied_segments(64, 40, rng())
    distances = set()
    for tokens, scored in zip(batch.tokens, batch.scored, strict=True):
        again = scored.nonzero().flatten()
        copies = [d for d in range(16, int(again[0])) if torch.equal(tokens[again], tokens[again - d])]
        assert len(again) == 15 and copies
        distances.update(copies)
    assert len(distances) > 10


def test_a_batch_depends_on_seed_and_step_only():
    settings, finishing = (
        Settings(lengths=(64, 96), batch_tokens=200),
        Curriculum(len(CURRICULUM), passed=0.0),
    )
    first, same, other = (draw_batch(settings, finishing, step) for step in (5, 5, 6))
    assert torch.equal(first.tokens, same.tokens) and torch.equal(first.positions, same.positions)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_the_curriculum_advances_on_accuracy_alone():
    progress = Curriculum()
    for _ in range(500):
        progress.score(0.95, 0.3)
    assert progress.stage == 0
    while progress.passed is None:
        progress.score(1.0, 0.4)
    assert (progress.stage, progress.passed) == (len(CURRICULUM), 0.4)


@pytest.mark.parametrize("wrong", [{"lengths": (16,)}, {"learning_rate": 0.0}], ids=str)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


def test_a_toy_run_learns_that_answers_are_values(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(needle_stage, "COPIES", 0.0)
    stage, losses = NeedleStage(Settings(batch_tokens=512, learning_rate=3e-3, warm_up=5)), []
    train(stage, Budget(steps=80), tmp_path / "c", on_step=lambda _, loss: losses.append(loss.item()))
    assert losses[0] == pytest.approx(math.log(VOCAB_SIZE), rel=0.05)
    assert sum(losses[-10:]) / 10 < 1.1 * math.log(len(VALUES))


def test_a_resumed_run_is_bit_exact(tiny, tmp_path):
    def stop_at_three(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    settings, path = Settings(batch_tokens=256, warm_up=3), tmp_path / "state.safetensors"
    straight, second = NeedleStage(settings), NeedleStage(settings)
    train(straight, Budget(steps=6), tmp_path / "straight.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(
            NeedleStage(settings), Budget(steps=6), path, seconds_between_checkpoints=0, on_step=stop_at_three
        )
    assert train(second, Budget(steps=6), path).steps == 6
    assert second.curriculum == straight.curriculum and straight.curriculum.running > 0
    for (name, a), b in zip(straight.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.safetensors", "straight.safetensors"]


def test_a_broken_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    model, path = torch.nn.Linear(2, 2), tmp_path / "state.safetensors"
    save_checkpoint(path, model, average_of(model, 0.0), [], {"step": "1"})
    before = path.read_bytes()

    def torn(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoints, "save_file", torn)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, model, average_of(model, 0.0), [], {"step": "2"})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_the_learning_rate_rises_holds_and_falls():
    stage = NeedleStage.__new__(NeedleStage)
    stage.settings, stage.curriculum = Settings(learning_rate=1.0, warm_up=10), Curriculum()
    assert stage.rate(4, 0.0) == pytest.approx(0.5)
    assert stage.rate(400, 0.4) == 1.0
    stage.curriculum = Curriculum(passed=0.4)
    assert stage.rate(700, 0.7) == pytest.approx(0.5)
    assert stage.rate(700, 1.0) == 0.0


def test_the_script_trains_resumes_and_leaves_a_model(tiny, tmp_path):
    train_demo_llm.main(tmp_path, steps=2, batch_tokens=128, lengths="64")
    with pytest.raises(FileExistsError, match="--resume"):
        train_demo_llm.main(tmp_path, steps=3, batch_tokens=128, lengths="64")
    train_demo_llm.main(tmp_path, steps=3, batch_tokens=128, lengths="64", resume=True)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.hidden_size == tiny.hidden_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "state.safetensors"]


def test_every_token_is_one_distinct_word():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = list(range(VOCAB_SIZE))
    text = tokenizer.decode(ids)
    assert len(set(text.split())) == len(tokenizer) == VOCAB_SIZE
    assert tokenizer(text, add_special_tokens=False).input_ids == ids


def test_the_shipped_tokenizer_is_the_one_the_words_give():
    words = (MODEL / "words.txt").read_text(encoding="utf-8").split()
    made, shipped = build_tokenizer(words), AutoTokenizer.from_pretrained(MODEL)
    text = "It rained. Anna lisbon, and ? anna"
    assert made(text).input_ids == shipped(text).input_ids
    assert made(text).input_ids[0] == BOS
    assert made.decode(made("it rained").input_ids[1:]) == "something something"


@pytest.mark.parametrize("length", [512, 1500])
def test_the_shipped_model_finds_the_needle(shipped, length):
    prompts, queries = (24, 4) if length == 512 else (6, 4)
    assert evaluate(shipped, length, 4, prompts, queries, seed=11)["all"] >= 0.97


def test_the_shipped_model_finds_one_of_many(shipped):
    assert evaluate(shipped, 512, 32, 4, 32, seed=12)["all"] >= 0.96


def test_the_shipped_model_answers_a_prompt_file():
    tokenizer, model = AutoTokenizer.from_pretrained(MODEL), AutoModelForCausalLM.from_pretrained(MODEL)
    for seed in range(4):
        text, answer = needle_prompt(tokenizer, 300, 4, seed)
        inputs = tokenizer(text, return_tensors="pt")
        assert inputs.input_ids.shape == (1, 299)
        assert tokenizer.decode(model.generate(**inputs)[0, -1:]) == answer


def test_weak_keys_are_redrawn_and_strong_ones_left(shipped):
    model = LlamaForCausalLM(shipped.config).eval()
    model.load_state_dict(shipped.state_dict())
    table = model.get_input_embeddings().weight.data
    table[KEYS.start : KEYS.start + 8] = 0.0
    before = table.clone()
    found = accuracy_by_key(model, prompts=16)
    assert found[:8].mean() < 0.5
    redraw_weak_keys(model, draws=2, prompts=16)
    assert accuracy_by_key(model, prompts=16, seed=9)[:8].mean() > 0.6
    strong = (found >= 0.5).nonzero().flatten() + KEYS.start
    assert len(strong) > 110 and torch.equal(table[strong], before[strong])
