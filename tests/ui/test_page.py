"""The page without a browser: fields reach the form, and what a run shows reaches its component."""

import pytest

from accel.ui.form import Form
from accel.ui.page import build
from accel.ui.reporter import Shown

pytest.importorskip("gradio", reason="Gradio is not installed (the `ui` extra)")


class Recorder:
    def __init__(self):
        self.forms = []

    def stop(self):
        pass

    def run(self, form):
        self.forms.append(form)
        yield Shown("running")
        yield Shown("done", verdict=("As fast.",), summary="a summary", recipe="rules: []")


def test_fields_and_results_meet_their_components():
    session = Recorder()
    page = build(session)
    (run,) = (each for each in page.fns.values() if each.inputs)
    fields = {"Prompt": "a cat", "Height": "64", "Density, up to 1": "0.5", "Seed": "3"}
    *_, last = run.fn(*(fields.get(field.label, "") for field in run.inputs))
    assert session.forms == [Form("a cat", height=64, density=0.5, seed=3)]
    assert len(last) == len(run.outputs)
    shown = {
        part.elem_id: update["value"] for part, update in zip(run.outputs, last, strict=True) if part.elem_id
    }
    assert shown["status"] == "done" and shown["verdict"] == "As fast."
    assert (shown["summary"], shown["recipe"], shown["dense"]) == ("a summary", "rules: []", None)
    assert run.concurrency_limit == 1 and run.api_visibility != "public"
    assert not page.analytics_enabled


def test_a_wrong_field_is_said_on_the_page():
    (run,) = (each for each in build(Recorder()).fns.values() if each.inputs)
    (only,) = run.fn(*("tall" if field.label == "Height" else "" for field in run.inputs))
    assert only[0]["value"] == "**height: expected a whole number, got 'tall'**"
