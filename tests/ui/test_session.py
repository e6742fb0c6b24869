"""What the page does, without the page: fields are checked, runs are told step by step, one at a time."""

import html
import json
import threading

import pytest

from accel.accelerate import patches_of
from accel.mistake import Mistake
from accel.ui import session as session_module
from accel.ui.form import Form
from accel.ui.page import Update, escaped, shown_of, table, updates
from accel.ui.reporter import Shown
from accel.ui.session import BUSY, Session

SMALL = {"prompt": "a red circle", "height": "64", "width": 64, "frames": 9.0, "steps": "2", "density": ""}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Everything a small run shows, and its session."""
    session = Session(tmp_path_factory.mktemp("ui"))
    return list(shown_of(session, SMALL)), session


def test_a_run_is_told_as_it_goes(told):
    shown, _ = told
    said = [now.status for now in shown]
    assert said[0] == "loading the model" and said[-1].startswith("done; everything is in ")
    for part in (
        "1 of 4: warm-up, step 1",
        "2 of 4: dense, step 2 of 2, about 0 s left",
        "3 of 4: accelerated",
    ):
        assert part in said, said
    first = next(now for now in shown if now.dense)
    assert first.accelerated is None and first.preview is not None, "dense is shown before the other is there"
    assert [row[2:] for row in first.numbers] == [("", "")] * 3, "and so are its seconds"
    second = next(now for now in shown if now.accelerated)
    assert "SSIM" in [row[0] for row in second.numbers] and not second.status.startswith("done")
    assert not any(now.failed for now in shown)


def test_its_numbers_are_those_of_the_report(told):
    shown, session = told
    last = shown[-1]
    assert {path.name for path in (session.output / "run-001").iterdir()} == {
        "dense.mp4", "accelerated.mp4", "report.html"
    }  # fmt: skip
    page = html.unescape(last.page.read_text())
    rows = {row[0]: row[1:] for row in last.numbers}
    assert rows["SSIM"][1] in page and f"{float(rows['density'][1]):.2f}" in page
    dense, fast, ratio = rows["end to end, s"]
    assert float(ratio[:-1]) == pytest.approx(float(dense) / float(fast), rel=0.02)
    assert all(sentence in page for sentence in last.verdict)
    assert "attention sites accelerated" in last.summary and "replaced" not in last.summary
    assert "rules:" in last.recipe


def test_the_model_is_as_it_was_and_is_kept_for_the_next_run(told):
    _, session = told
    _, pipe = session._loaded
    assert not patches_of(pipe)
    list(shown_of(session, {**SMALL, "steps": 1, "density": 0.5, "recipe": "auto"}))
    assert session._loaded[1] is pipe and (session.output / "run-002" / "report.html").exists()


def test_whoever_leaves_stops_the_run(told):
    _, session = told
    run = shown_of(session, {**SMALL, "steps": 50})
    for now in run:
        if "step 1" in now.status:
            break
    run.close()
    assert not patches_of(session._loaded[1])
    assert next(shown_of(session, {**SMALL, "recipe": "radail"})).status != BUSY


def test_a_run_is_stopped_at_its_next_step_and_says_so(told):
    _, session = told
    said = []
    for now in shown_of(session, {**SMALL, "steps": 50}):
        said.append(now)
        if now.status.endswith("step 1"):
            session.stop()
    assert [now.status for now in said[-2:]] == ["stopping at the next step", "stopped"]
    assert not said[-1].failed and said[-1].preview is None and not patches_of(session._loaded[1])


def test_one_run_at_a_time(tmp_path, monkeypatch):
    waiting, go_on = threading.Event(), threading.Event()

    def compare(self, checked, reporter):
        waiting.set()
        assert go_on.wait(30)

    monkeypatch.setattr(session_module.Session, "_compare", compare)
    session = Session(tmp_path)
    first = threading.Thread(target=lambda: list(shown_of(session, SMALL)))
    first.start()
    assert waiting.wait(30)
    assert [now.status for now in shown_of(session, SMALL)] == [BUSY]
    go_on.set()
    first.join()
    assert list(shown_of(session, SMALL)) == []


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": None}, "the prompt is empty"),
        ({"height": "tall"}, "height: expected a whole number, got 'tall'"),
        ({"steps": "2.5"}, "steps: expected a whole number, got '2.5'"),
        ({"frames": "0"}, "--frames"),
        ({"density": "0"}, "density"),
        ({"height": 65}, "65"),
        ({"density": "nan"}, "density"),
        ({"density": 0.5, "target": "ssim>0.9"}, "not both"),
        ({"target": "sim>0.9"}, "unknown 'sim'"),
        ({"recipe": "radail"}, "did you mean 'radial'"),
        ({"model": "/nowhere"}, "/nowhere"),
        ({"steps": -1}, "--steps"),
    ],
    ids=str,
)
def test_a_wrong_field_is_a_sentence(tmp_path, wrong, said):
    (*_, last) = shown_of(Session(tmp_path), {**SMALL, **wrong})
    assert last.failed and said in last.status and "defect" not in last.status
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_called_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Form, "checked", lambda form: 1 / 0)
    (now,) = shown_of(Session(tmp_path), SMALL)
    assert now.failed and "ZeroDivisionError" in now.status and "defect" in now.status


def test_a_target_is_tuned_to_before_the_comparison(tmp_path, monkeypatch):
    import accel.tuning.search as search

    asked = {}

    def tune(pipe, prompts, target, **more):
        asked.update(more, prompts=prompts, target=str(target))
        raise Mistake("no recipe meets it")

    monkeypatch.setattr(search, "tune", tune)
    (*_, last) = shown_of(Session(tmp_path), {**SMALL, "target": "ssim>0.95"})
    assert last.failed and last.status == "no recipe meets it"
    assert asked["target"] == "ssim>0.95" and asked["kept_aside"] == 1 and len(asked["prompts"]) == 2


def test_the_command_does_the_same():
    form = Form.of({**SMALL, "density": 0.5, "recipe": "auto", "seed": 3, "target": " "})
    assert " ".join(form.command()) == (
        "accel compare a red circle --model demo --height 64 --width 64 --frames 9 --steps 2 --seed 3 "
        "--recipe auto --set density=0.5"
    )


def test_nothing_a_user_wrote_is_markup():
    assert escaped("<b>*x*</b>") == "&#60;b&#62;&#42;x&#42;&#60;/b&#62;"
    lines = table((("a|b", "1", "2", "3"),)).splitlines()
    assert lines[2] == "| a&#124;b | 1 | 2 | 3 |" and lines[1].count("---") == 4
    (status, *rest) = updates(Shown("**bold**", failed=True))
    assert status == Update("**&#42;&#42;bold&#42;&#42;**") and all(isinstance(each, Update) for each in rest)
    json.dumps([update.value for update in updates(Shown("", summary="x"))])


def test_images_take_the_place_of_videos(tmp_path):
    _, *results = updates(Shown("", dense=tmp_path / "dense.png"))
    assert [each.visible for each in results[:4]] == [False, False, True, True]
    _, *results = updates(Shown("", dense=tmp_path / "dense.mp4"))
    assert [each.visible for each in results[:4]] == [True, True, False, False]
