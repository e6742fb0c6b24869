"""Loading: safetensors only, no code that comes with a model, and every mistake told before the long wait."""

import json
import shutil

import torch
from pytest import fixture, mark, raises
from safetensors.torch import load_file

from accel.demo.paths import DEMO_VIDEO
from accel.load.errors import LoadError, devices
from accel.load.language_model import DEMO_LLM, load_language_model
from accel.load.pipeline import load_pipeline

LOADERS = {"pipeline": (load_pipeline, DEMO_VIDEO), "language model": (load_language_model, DEMO_LLM)}
CODE = "from pathlib import Path\nPath({!r}).write_text('ran')\n"


@fixture(params=LOADERS, ids=lambda name: name)
def loader(request):
    return LOADERS[request.param]


@fixture
def copy(tmp_path):
    def make(folder):
        return shutil.copytree(folder, tmp_path / "model")

    return make


def pickle_weights(folder) -> list[str]:
    """Turn every safetensors file below a folder into a pickle, as older models have them."""
    found = list(folder.rglob("*.safetensors"))
    for path in found:
        stem = path.stem if path.stem.startswith("diffusion") else "pytorch_model"
        torch.save(load_file(path), path.with_name(f"{stem}.bin"))
        path.unlink()
    return [str(path) for path in found]


def refused(load, folder, *expected) -> None:
    with raises(LoadError) as caught:
        load(str(folder), "cpu")
    for part in expected:
        assert part in str(caught.value), caught.value


def test_pickled_weights_are_refused_with_the_way_out(loader, copy):
    load, source = loader
    folder = copy(source)
    assert pickle_weights(folder)
    refused(load, folder, "pytorch_model.bin", "can run any code", "safe_serialization=True")


@mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_one_pickled_part_is_enough_to_refuse_a_pipeline(part, copy):
    folder = copy(DEMO_VIDEO)
    assert pickle_weights(folder / part)
    refused(load_pipeline, folder, f"{part}: its weights are pickles")


def test_a_pickle_beside_safetensors_is_never_read(loader, copy):
    load, source = loader
    folder = copy(source)
    for path in list(folder.rglob("*.safetensors")):
        for stem in ("pytorch_model", "diffusion_pytorch_model"):
            path.with_name(f"{stem}.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert load(str(folder), "cpu")


def test_a_pipelines_own_code_is_not_run(copy, tmp_path):
    folder, proof = copy(DEMO_VIDEO), tmp_path / "proof"
    (folder / "theirs.py").write_text(
        CODE.format(str(proof)) + "from diffusers import WanPipeline as Theirs\n"
    )
    change(folder / "model_index.json", _class_name=["theirs", "Theirs"])
    refused(load_pipeline, folder, "never run here")
    assert not proof.exists()


def test_a_components_own_code_is_not_run(copy, tmp_path):
    folder, proof = copy(DEMO_VIDEO), tmp_path / "proof"
    code = CODE.format(str(proof)) + "from diffusers import WanTransformer3DModel as Theirs\n"
    (folder / "transformer" / "theirs.py").write_text(code)
    change(folder / "model_index.json", transformer=["theirs", "Theirs"])
    refused(load_pipeline, folder, "never run here")
    assert not proof.exists()


def test_a_language_models_own_code_is_not_run_and_nobody_is_asked(copy, tmp_path, monkeypatch):
    folder, proof = copy(DEMO_LLM), tmp_path / "proof"
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = "from transformers import LlamaConfig as Config, LlamaForCausalLM as Theirs\n"
    (folder / "theirs.py").write_text(CODE.format(str(proof)) + code)
    auto_map = {"AutoModelForCausalLM": "theirs.Theirs", "AutoConfig": "theirs.Config"}
    change(folder / "config.json", auto_map=auto_map, model_type="theirs")
    refused(load_language_model, folder, "never run here")
    assert not proof.exists()


def change(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def break_weights(folder):
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"nonsense")


def lose_weights(folder):
    for path in folder.rglob("*.safetensors"):
        path.unlink()


def lose_index(folder):
    (folder / "model_index.json").unlink(missing_ok=True)
    (folder / "config.json").unlink(missing_ok=True)


def break_index(folder):
    name = "model_index.json" if (folder / "model_index.json").exists() else "config.json"
    (folder / name).write_text("{")


BROKEN = {
    "broken weights": (break_weights, "cannot load"),
    "no weights": (lose_weights, "safetensors"),
    "no index": (lose_index, "there is no"),
    "broken index": (break_index, "cannot load"),
}


@mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_told_in_a_sentence(loader, copy, case):
    load, source = loader
    folder = copy(source)
    damage, expected = BROKEN[case]
    damage(folder)
    refused(load, folder, expected, str(folder))


NAMES = {
    "nothing": ("", "an empty name"),
    "no such folder": ("/no/such/folder", ": no such folder"),
    "no hub id": ("a/b/c", "neither"),
    "far too long": ("x" * 300, "neither"),
    "a file": (str(DEMO_LLM / "config.json"), "is a file; name the folder"),
    "the hub without network": ("someone/some-model", "needs a network"),
}


@mark.parametrize("case", NAMES)
def test_a_wrong_name_is_told_in_a_sentence(loader, case):
    name, expected = NAMES[case]
    refused(loader[0], name, expected)


@mark.parametrize(
    "device, expected",
    [("gpu", "unknown"), ("cpuu", "did you mean 'cpu'"), ("xpu", "sees no xpu"), ("cpu:3", "only 1")],
)
def test_a_device_that_is_not_there_is_told_before_loading(loader, device, expected):
    assert "xpu" not in devices()
    with raises(LoadError, match=expected):
        loader[0]("no/such-model", device)


def test_the_two_demos_are_told_apart():
    with raises(LoadError, match="the demo to generate is 'demo'"):
        load_pipeline("demo-llm", "cpu")
    with raises(LoadError, match="the demo to complete is 'demo-llm'"):
        load_language_model("demo", "cpu")
