"""Many videos from one pipeline: made, recorded, skipped, retried, never mixed up."""

import json
from dataclasses import replace

from pytest import fixture, mark, raises

from accel.batch import batch as batch_module
from accel.batch.batch import Batch, BatchError, make
from accel.batch.prompts import read_prompts
from accel.load.pipeline import load_pipeline
from accel.recipe.files import load_recipe

DEFAULTS = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 2, "max_sequence_length": 32}
NAMES = ("one", "two", "three")


@fixture(scope="module")
def pipe():
    pipe = load_pipeline("demo", "cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@fixture(scope="module")
def jobs(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [{"prompt": f"a red circle {name}", "name": name, "seed": 3} for name in NAMES]
    path.write_text("\n".join(map(json.dumps, lines)))
    return read_prompts(path, DEFAULTS)


def batch_in(folder, recipe="demo", changes=None):
    batch = Batch("demo", recipe and load_recipe(recipe), changes or {"block_size": [16, 16]}, (), folder, 12)
    batch.manifest.create()
    return batch


@fixture(scope="module")
def done(pipe, jobs, tmp_path_factory):
    batch, told = batch_in(tmp_path_factory.mktemp("out")), []
    outcome = make(jobs, batch, pipe, told.append)
    return batch, outcome, told


def test_every_video_is_written_and_told(done):
    batch, outcome, told = done
    assert outcome.made == list(NAMES) and not outcome.failed
    assert [line.split(":")[0] for line in told] == [f"{name}.mp4" for name in NAMES]
    for name in NAMES:
        assert (batch.folder / f"{name}.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_manifest_says_how_each_was_made(done):
    batch, _, _ = done
    records = [json.loads(line) for line in batch.manifest.path.read_text().splitlines()]
    assert {record["name"] for record in records} == set(NAMES)
    for record in records:
        assert record["settings"]["prompt"] == f"a red circle {record['name']}"
        assert record["settings"]["seed"] == 3 and record["settings"]["num_frames"] == 5
        assert record["recipe"]["rules"][0]["policy"]["block_size"] == [16, 16]
        assert 0 < record["seconds"]["attention"] < record["seconds"]["total"]
        assert 0 < record["sparse_density"] < record["density"] < 1
        assert record["dense_reasons"] == {"first steps": 14, "dense layer": 2}
        assert "torch" in record["versions"]


def test_what_is_there_is_not_missing(done, jobs):
    batch, _, _ = done
    assert batch.missing(jobs) == []
    more = replace(jobs[0], name="four")
    assert batch.missing([*jobs, more]) == [more]


def other_settings(batch, job):
    return batch, replace(job, settings=job.settings.model_copy(update={"guidance_scale": 2.0, "seed": 4}))


def other_recipe(batch, job):
    return replace(batch, recipe=load_recipe("radial")), job


def other_changes(batch, job):
    return replace(batch, changes={"density": 0.2}), job


def other_model(batch, job):
    return replace(batch, model="elsewhere"), job


@mark.parametrize(
    "change, said",
    [
        (other_settings, "guidance_scale, seed"),
        (other_recipe, "recipe"),
        (other_changes, "changes"),
        (other_model, "model"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_name_that_is_another_video_is_refused(done, jobs, change, said):
    batch, job = change(done[0], jobs[0])
    with raises(BatchError, match=f"line 1: 'one' is there already, made with another {said}\n"):
        batch.missing([job, *jobs[1:]])


def test_one_failure_does_not_stop_the_rest_and_is_tried_again(pipe, jobs, tmp_path, monkeypatch):
    def generate(pipe, settings, recipe):
        if settings.prompt.endswith("two"):
            raise RuntimeError("out of luck")
        return real(pipe, settings, recipe)

    real = batch_module.generate
    monkeypatch.setattr(batch_module, "generate", generate)
    batch, told = batch_in(tmp_path), []
    outcome = make(jobs, batch, pipe, told.append)
    assert outcome.made == ["one", "three"] and outcome.failed == {"two": "RuntimeError: out of luck"}
    assert told[1] == "line 2: two failed: RuntimeError: out of luck"
    assert batch.missing(jobs) == [jobs[1]]
    monkeypatch.setattr(batch_module, "generate", real)
    assert make(batch.missing(jobs), batch, pipe, told.append).made == ["two"]
    assert batch.missing(jobs) == []


def test_a_video_that_was_deleted_is_made_again(pipe, jobs, tmp_path):
    batch = batch_in(tmp_path, recipe=None)
    make(jobs[:1], batch, pipe, lambda text: None)
    assert batch.missing(jobs[:1]) == []
    (tmp_path / "one.mp4").unlink()
    assert batch.missing(jobs[:1]) == jobs[:1]
