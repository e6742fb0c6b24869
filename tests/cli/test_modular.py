"""`accel generate`, `compare` and `inspect` of modular pipelines: folders with every part of them."""

import json

import torch
from diffusers import MiniMaxH3ModularPipeline
from PIL import Image
from pytest import fixture, mark, raises

import modular_folders
from accel.cli import asked
from accel.load import modular
from accel.load.errors import LoadError
from accel.load.index import read_index
from accel.load.pipeline import load_pipeline
from accel.run.video import read_video

SPARSE = ["--set", "min_tokens=0", "--set", "block_size=[16, 16]", "--set", "dense_steps=0"]
SIZE = ["--height", 64, "--width", 96, "--steps", 3, *SPARSE]
FILM = [*SIZE, "--frames", 124, "--device", "cpu"]


@fixture(scope="module")
def folders(tmp_path_factory):
    return {
        name: getattr(modular_folders, name)(tmp_path_factory.mktemp("modular") / name)
        for name in ("minimax_h3", "flux3")
    }


def picture(path, colour):
    Image.new("RGB", (96, 64), colour).save(path)
    return ["--image", path]


def test_text_becomes_a_video(accel, folders):
    code, said, err = accel("generate", "a cat", "--model", folders["minimax_h3"], *FILM, "--json")
    assert code == 0, err
    facts = json.loads(said)
    assert facts["summary"]["sparse_density"] > 0 and facts["files"] == {"accelerated": "video.mp4"}
    frames = read_video("video.mp4")
    assert len(frames) == 124 and frames[0].size == (96, 64)


def test_first_and_last_frames_are_places_in_the_blocks(folders, tmp_path):
    from accel.run.generate import generate
    from accel.run.settings import GenerateSettings

    images = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, colour in zip(images, ("red", "blue"), strict=True):
        picture(path, colour)
    size = {"prompt": "a cat", "height": 64, "width": 96, "num_inference_steps": 2, "num_frames": 124}
    given = GenerateSettings(**size, image=tuple(map(str, images)))
    about = asked.asked_of(asked.loading_of({"model": str(folders["minimax_h3"]), "device": "cpu"}), given)
    assert about.given == {"prompt", "image", "last_image"}
    pipe = about.load()
    # The processor of these tests has no vision tower behind it: the features of the images are left out.
    pipe.processor.image_processor = lambda images, **_: {
        "image_grid_thw": torch.ones(len(images), 3, dtype=torch.long) * 2,
        "pixel_values": torch.zeros(8 * len(images), 3 * 2 * 16 * 16),
    }
    pipe.processor.image_processor.merge_size = 2
    made = generate(pipe, given)
    assert made.frames.shape == (124, 64, 96, 3) and made.latents is not None


def test_text_and_references_become_an_image(accel, folders, tmp_path):
    words = ["generate", "a cat", "--model", folders["flux3"], *SIZE, "--device", "cpu"]
    made = []
    for number, more in enumerate(([], picture(tmp_path / "a.png", "red"), ["--quantize", "torchao-int8"])):
        code, _, err = accel(*words, *more, "-o", f"made{number}.png")
        assert code == 0, err
        made.append(Image.open(tmp_path / f"made{number}.png"))
    assert {image.size for image in made} == {(96, 64)}
    assert made[0].tobytes() != made[1].tobytes() != made[2].tobytes()


def test_it_is_compared(accel, folders):
    code, said, err = accel(
        "compare", "a cat", "--model", folders["minimax_h3"], *FILM, "--no-placing", "--json"
    )
    assert code == 0, err
    assert json.loads(said)["quality"]["accelerated"]["latent_relative_error"] > 0


@mark.parametrize("name, expected", [("minimax_h3", "3 of 3 follow"), ("flux3", "2 of 2 follow")])
def test_it_is_inspected_without_weights(name, expected, accel, folders, tmp_path):
    code, said, err = accel("inspect", folders[name], "--set", "min_tokens=0")
    assert code == 0 and expected in said, err


def test_what_it_lacks_is_said_before_weights_are_read(accel, folders, monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(asked, "load_pipeline", loaded)
    for name, words, expected in (
        ("flux3", ["--guidance", 3], "Flux3ModularPipeline takes no --guidance"),
        ("flux3", ["--frames", 3], "takes no --frames"),
        ("minimax_h3", ["--negative-prompt", "a"], "takes no --negative-prompt"),
        ("minimax_h3", ["--frames", 17], "makes 108 to 345 frames, got --frames 17"),
        ("minimax_h3", ["--height", 70], "divisible by 32"),
        ("minimax_h3", ["--video", "a.mp4"], "takes no --video"),
    ):
        code, _, err = accel("generate", "a cat", "--model", folders[name], *words)
        assert code == 2 and expected in err, (words, err)
    code, _, err = accel("tune", folders["minimax_h3"], "--target", "speedup>1.5", "--prompts", __file__)
    assert code == 2 and "needs every step's latents" in err, err


def test_a_schedule_that_the_scheduler_refuses_is_a_sentence(accel, folders):
    words = ["--steps", 1, "--height", 64, "--width", 96, "--frames", 124, "--device", "cpu"]
    code, _, err = accel("generate", "a cat", "--model", folders["minimax_h3"], *words)
    assert code == 2 and "num_inference_steps` >= 2" in err and "Traceback" not in err, err


def change(folder, tmp_path, **entries):
    """A copy of a folder whose index says something else of some parts."""
    for part in folder.iterdir():
        (tmp_path / part.name).symlink_to(part)
    path = tmp_path / "modular_model_index.json"
    data = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**data, **entries}))
    return tmp_path


def refused(folder, expected):
    with raises(LoadError, match=expected):
        load_pipeline(str(folder), "cpu", pipeline_class=MiniMaxH3ModularPipeline)


def test_a_part_that_is_nowhere_or_a_pickle_is_refused(folders, tmp_path):
    data = json.loads((folders["minimax_h3"] / "modular_model_index.json").read_text())
    kind, name, place = data["audio_scheduler"]
    lost = change(
        folders["minimax_h3"],
        tmp_path,
        audio_scheduler=[None, None, {**place, "pretrained_model_name_or_path": None, "subfolder": ""}],
    )
    refused(lost, "does not say where audio_scheduler is")
    pickled = {**place, "pretrained_model_name_or_path": "x/y/z.ckpt", "subfolder": ""}
    path = lost / "modular_model_index.json"
    path.write_text(json.dumps({**data, "audio_scheduler": [kind, name, pickled]}))
    refused(lost, "audio_scheduler is a pickle")


def test_a_part_may_lie_in_another_folder(folders, tmp_path):
    whole = folders["minimax_h3"]
    (tmp_path / "modular_model_index.json").write_text((whole / "modular_model_index.json").read_text())
    index = read_index(str(tmp_path))
    assert index.models == {"transformer": "MiniMaxH3Transformer3DModel"}
    assert index.config("transformer")["in_channels"] == modular_folders.LATENT_CHANNELS


def test_only_what_a_request_needs_is_asked_for():
    text = modular.blocks_of(MiniMaxH3ModularPipeline, ["prompt"])
    frames = modular.blocks_of(MiniMaxH3ModularPipeline, ["prompt", "image"])
    assert "transformer_ref" not in text.component_names and "image_processor" not in text.component_names
    assert "image_processor" in frames.component_names


def test_offloading_by_model_is_asked_of_a_manager(folders, monkeypatch):
    from diffusers import ComponentsManager

    calls = []
    monkeypatch.setattr(
        ComponentsManager,
        "enable_auto_cpu_offload",
        lambda self, device: calls.append((set(self.components), device)),
    )
    pipe = MiniMaxH3ModularPipeline()
    pipe.update_components(transformer=modular_folders.CASES["minimax-h3"].model())
    assert modular.offloaded_modular(pipe, "model", "cuda") is pipe
    ((parts, device),) = calls
    assert device == "cuda" and [part.rpartition("_")[0] for part in parts] == ["transformer"]
