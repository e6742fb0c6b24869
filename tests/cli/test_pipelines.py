"""`accel generate` and `compare` through real pipelines of every kind: images, and from images and videos."""

import functools
import json

import diffusers
import imageio_ffmpeg
import numpy as np
import torch
from diffusers import WanVACETransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from pytest import fixture, importorskip, mark, raises

import tiny
from accel.cli import asked
from accel.load import errors
from accel.load.pipeline import load_pipeline
from accel.load.quantised import QUANTISERS
from accel.mistake import Mistake
from accel.run import conditions
from accel.run.arguments import pipeline_class
from accel.run.settings import GenerateSettings
from accel.run.video import read_video, write_video
from real_pipelines import PIPELINES
from tiny_families import CASES
from tiny_inputs import TEXT, noise, text_mask

SMALL = ["--height", "64", "--width", "96", "--steps", "2", "--seed", "3", "--set", "min_tokens=0"]
SHORT = [*SMALL, "--frames", "5", "--set", "block_size=[16, 16]"]
BLOCKS = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
KL = {**BLOCKS, "block_out_channels": [8] * 4, "norm_num_groups": 4, "layers_per_block": 1}


def no_weights(monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(asked, "load_pipeline", loaded)


def text_of(family, pipe):
    """What the family's `encode_prompt` returns for any prompt."""
    embeds, pooled = noise(1, TEXT, 16), noise(1, 8)
    return {
        "flux": lambda: (embeds, pooled, torch.zeros(TEXT, 3)),
        "flux2": lambda: (embeds, pipe._prepare_text_ids(embeds)),
        "qwen-image": lambda: (embeds, text_mask(1)),
        "sd3": lambda: (embeds, noise(2, TEXT, 16)[:1], pooled, noise(2, 8)[:1]),
        "z-image": lambda: ([embeds[0]], [embeds[0]]),
    }[family]


VAES = {
    "flux": lambda c: diffusers.AutoencoderKL(latent_channels=c // 4, shift_factor=0.0, **KL),
    "flux2": lambda c: diffusers.AutoencoderKLFlux2(latent_channels=c // 4, **KL),
    "qwen-image": lambda c: diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=c // 4,
        num_res_blocks=1,
        latents_mean=[0.0] * (c // 4),
        latents_std=[1.0] * (c // 4),
    ),
    "sd3": lambda c: diffusers.AutoencoderKL(latent_channels=c, shift_factor=0.0, **KL),
    "z-image": lambda c: diffusers.AutoencoderKL(latent_channels=c, shift_factor=0.0, **KL),
}


def image_pipeline(family, folder):
    """A tiny pipeline of an image family; its classes and configurations are written to the folder."""
    pipe = PIPELINES[family].pipe()
    parts = dict(pipe.components)
    parts["vae"] = VAES[family](pipe.transformer.config.in_channels)
    config = {name: value for name, value in pipe.config.items() if isinstance(value, bool)}
    pipe = type(pipe)(**parts, **{name: value for name, value in config.items() if name not in parts})
    pipe.set_progress_bar_config(disable=True)
    pipe.encode_prompt = lambda *_, **__: text_of(family, pipe)()
    index = {"_class_name": type(pipe).__name__}
    for name in ("transformer", "vae"):
        part = getattr(pipe, name)
        index[name] = ["diffusers", type(part).__name__]
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({**part.config}))
    (folder / "model_index.json").write_text(json.dumps(index))
    return pipe


@mark.parametrize("family", VAES)
def test_an_image_family_makes_a_png(family, accel, tmp_path, monkeypatch):
    pipe = image_pipeline(family, tmp_path / "model")
    monkeypatch.setattr(asked, "load_pipeline", lambda *_, **__: pipe)
    code, told, err = accel("generate", "a cat", "--model", "model", *SMALL, "--guidance", 2, "--json")
    assert code == 0, err
    data = json.loads(told)
    assert data["files"] == {"accelerated": "image.png"} and data["summary"]["sparse_density"] > 0
    assert Image.open(tmp_path / "image.png").size == (96, 64)


def test_an_image_model_is_probed_where_leaving_blocks_out_hurts(accel, tmp_path, monkeypatch):
    pipe = image_pipeline("flux", tmp_path / "model")
    monkeypatch.setattr(asked, "load_pipeline", lambda *_, **__: pipe)
    code, told, err = accel("inspect", "model", *SMALL[:6], "--probe", "--prompt", "a cat", "--json")
    assert code == 0, err
    assert json.loads(told)["where_it_hurts"]


def test_compare_shows_images(accel, tmp_path, monkeypatch):
    pipe = image_pipeline("flux", tmp_path / "model")
    monkeypatch.setattr(asked, "load_pipeline", lambda *_, **__: pipe)
    code, told, err = accel("compare", "a cat", "--model", "model", *SMALL)
    assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.png",
        "model-dense.png",
        "report.html",
    }
    assert "data:image/png;base64" in (tmp_path / "out" / "report.html").read_text() and "PSNR" in told


def test_an_image_model_takes_no_video_and_no_fps(accel, tmp_path, monkeypatch):
    image_pipeline("flux", tmp_path / "model")
    no_weights(monkeypatch)
    for words, expected in (
        (["--video", "a.mp4"], "FluxPipeline takes no --video"),
        (["--frames", "5"], "FluxPipeline takes no --frames"),
        (["--fps", "5"], "images, which have no --fps"),
        (["-o", "a.mp4"], "ends in .png"),
        (["--image", "a.png", "--image", "b.png"], "FluxImg2ImgPipeline takes one image, got 2"),
        (["--image", "."], "cannot be read"),
    ):
        code, _, err = accel("generate", "a cat", "--model", "model", *words)
        assert code == 2 and expected in err, err


@fixture(scope="module")
def i2v(tmp_path_factory):
    """Wan image-to-video around the demo's text encoder and VAE, on the disk."""
    demo = load_pipeline("demo", "cpu")
    channels = demo.vae.config.z_dim
    tiny_model = tiny.wan(in_channels=2 * channels + 4, out_channels=channels, text_dim=128)
    pipe = diffusers.WanImageToVideoPipeline(
        tokenizer=demo.tokenizer,
        text_encoder=demo.text_encoder,
        vae=demo.vae,
        scheduler=demo.scheduler,
        transformer=tiny_model,
        image_encoder=None,
        image_processor=None,
    )
    folder = tmp_path_factory.mktemp("i2v")
    pipe.save_pretrained(folder)
    return folder


@fixture
def picture(tmp_path):
    def paint(name: str, colour: tuple[int, int, int]) -> str:
        Image.new("RGB", (96, 64), colour).save(tmp_path / name)
        return name

    return paint


def test_image_to_video_starts_from_a_first_and_a_last_frame(accel, i2v, picture):
    words = ["generate", "a cat", "--model", i2v, *SHORT, "--device", "cpu"]
    first, last = ["--image", picture("a.png", (250, 0, 0))], ["--image", picture("b.png", (0, 0, 250))]
    films = []
    for number, images in enumerate((first, [*first, *last])):
        code, _, err = accel(*words, *images, "-o", f"{number}.gif")
        assert code == 0, err
        films.append(np.stack([np.asarray(frame) for frame in read_video(f"{number}.gif")]))
    assert films[0].shape == (5, 64, 96, 3) and (films[0] != films[1]).any()


def test_what_image_to_video_lacks_is_said_before_weights_are_read(
    accel, i2v, monkeypatch, tmp_path, picture
):
    no_weights(monkeypatch)
    (tmp_path / "broken.png").write_bytes((tmp_path / picture("a.png", (9, 9, 9))).read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image")
    for words, expected in (
        ([], "WanImageToVideoPipeline needs --image"),
        (["--image", "none.png"], "none.png: cannot be read: No such file"),
        (["--image", "broken.png"], "broken.png: cannot be read"),
        (["--image", "text.png"], "text.png: is not an image"),
        (["--image", "a.png"] * 3, "takes two images, the first and the last frame, got 3"),
        (["--image", "a.png", "--video", "a.mp4"], "takes no --video"),
        (["--image", "a.png", "--set", "dense_stps=1"], "did you mean 'dense_steps'"),
        (["--image", "a.png", "--recipe", "radail"], "did you mean 'radial'"),
    ):
        code, _, err = accel("generate", "a cat", "--model", i2v, *words)
        assert code == 2 and expected in err, (words, err)
    assert not list(tmp_path.glob("*.mp4"))


def test_video_to_video_runs_the_weights_of_text_to_video(accel, tmp_path):
    write_video(torch.rand(5, 64, 96, 3), tmp_path / "in.mp4", 8)
    words = ["--height", 64, "--width", 96, "--steps", 3, "--strength", 0.7, "--fps", 10]
    code, told, err = accel(
        "generate", "a red circle", "--video", "in.mp4", *words, "--device", "cpu", "--json"
    )
    assert code == 0, err
    assert json.loads(told)["files"] == {"accelerated": "video.mp4"}
    assert len(read_video("video.mp4")) == 5


def test_references_go_to_where_a_pipeline_takes_them():
    from accel.run.conditions import _images as place

    assert place(diffusers.WanVACEPipeline, ["a", "b", "c"]) == {"reference_images": ["a", "b", "c"]}
    assert place(diffusers.Flux2Pipeline, ["a", "b"]) == {"image": ["a", "b"]}
    assert place(diffusers.QwenImageEditPlusPipeline, ["a", "b"]) == {"image": ["a", "b"]}
    assert place(diffusers.WanImageToVideoPipeline, ["a", "b"]) == {"image": "a", "last_image": "b"}
    assert place(diffusers.LTXImageToVideoPipeline, ["a"]) == {"image": "a"}


def test_reference_images_reach_a_pipeline_that_takes_them(accel, tmp_path, picture):
    demo = load_pipeline("demo", "cpu")
    channels = demo.vae.config.z_dim
    model = WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=channels,
        text_dim=128,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        vace_layers=[0],
        vace_in_channels=2 * channels + demo.vae_scale_factor_spatial**2,
    )
    parts = {name: getattr(demo, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    diffusers.WanVACEPipeline(transformer=model, **parts).save_pretrained(tmp_path / "vace")
    words = ["generate", "a cat", "--model", "vace", *SHORT, "--device", "cpu"]
    films = []
    for number, colours in enumerate([[(250, 0, 0)], [(250, 0, 0), (0, 0, 250)]]):
        images = [word for n, c in enumerate(colours) for word in ("--image", picture(f"{n}.png", c))]
        code, _, err = accel(*words, *images, "-o", f"{number}.gif")
        assert code == 0, err
        films.append(np.stack([np.asarray(frame) for frame in read_video(f"{number}.gif")]))
    assert films[0].shape == films[1].shape and (films[0] != films[1]).any()


@fixture(scope="module")
def ltx(tmp_path_factory):
    """LTX-Video around the demo's text encoder and a tiny VAE of its own kind, on the disk."""
    demo = load_pipeline("demo", "cpu")
    tiny_model = CASES["ltx"].model(in_channels=8, out_channels=8, caption_channels=128)
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        patch_size=1,
    )
    pipe = diffusers.LTXPipeline(
        tokenizer=demo.tokenizer,
        text_encoder=demo.text_encoder,
        vae=vae.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model,
    )
    folder = tmp_path_factory.mktemp("ltx")
    pipe.save_pretrained(folder)
    return folder


def test_ltx_starts_from_frames_and_from_videos(accel, ltx, picture, tmp_path):
    write_video(torch.rand(9, 64, 96, 3), tmp_path / "in.mp4", 8)
    first, last = ["--image", picture("a.png", (250, 0, 0))], ["--image", picture("b.png", (0, 0, 250))]
    words = ["generate", "a cat", "--model", ltx, *SMALL, "--frames", 9, "--device", "cpu"]
    films = []
    for number, more in enumerate(
        ([], first, [*first, *last], ["--video", "in.mp4"], ["--video", "in.mp4", "--strength", 0.5])
    ):
        code, _, err = accel(*words, *more, "-o", f"{number}.gif")
        assert code == 0, err
        films.append(np.stack([np.asarray(frame) for frame in read_video(f"{number}.gif")]))
    assert {film.shape for film in films} == {(9, 64, 96, 3)}
    assert all((one != other).any() for n, one in enumerate(films) for other in films[:n])


def test_what_ltx_pipelines_cannot_start_from_is_said(accel, ltx, picture, monkeypatch):
    no_weights(monkeypatch)
    picture("a.png", (9, 9, 9))
    for words, expected in (
        (["--image", "a.png"] * 3, "takes two images, the first and the last frame, got 3"),
        (["--image", "a.png", "--video", "a.mp4"], "from --image or from --video"),
        (["--image", "a.png", "--strength", 0.5], "takes no --strength"),
    ):
        code, _, err = accel("generate", "a cat", "--model", ltx, *words)
        assert code == 2 and expected in err, (words, err)


def test_frames_become_conditions_of_ltx_2(monkeypatch):
    one, two = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    place = functools.partial(conditions.conditions_of, diffusers.LTX2ConditionPipeline)
    (film,) = place([], [one, two], 9)["conditions"]
    assert film.frames == [one, two] and film.index == 0
    monkeypatch.setattr(conditions, "find_spec", lambda name: None)
    with raises(Mistake, match="pip install av"):
        place([one, two], None, 9)
    monkeypatch.setattr(conditions, "find_spec", lambda name: name)
    first, last = place([one, two], None, 9)["conditions"]
    assert (first.frames, first.index, last.frames, last.index) == (one, 0, two, -1)
    asked_for = GenerateSettings(prompt="a cat", image=("a.png", "b.png"))
    assert pipeline_class("LTX2Pipeline", asked_for) is diffusers.LTX2ConditionPipeline


def test_loras_add_up(accel, tmp_path):
    model = load_pipeline("demo").transformer
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
        model.add_adapter(config, adapter_name=name)
        layers = get_peft_model_state_dict(model, adapter_name=name)
        diffusers.WanPipeline.save_lora_weights(tmp_path / name, transformer_lora_layers=layers)
    films = []
    for number, words in enumerate(([], ["--lora", "one"], ["--lora", "one", "--lora", "two=0.5"])):
        code, _, err = accel("generate", *SHORT, *words, "--device", "cpu", "-o", f"{number}.gif")
        assert code == 0, err
        films.append(np.stack([np.asarray(frame) for frame in read_video(f"{number}.gif")]))
    assert (films[0] != films[1]).any() and (films[1] != films[2]).any()


def test_a_variant_is_loaded_where_it_is(accel, i2v, tmp_path, picture):
    pipe = diffusers.WanImageToVideoPipeline.from_pretrained(i2v, image_encoder=None, image_processor=None)
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    words = ["--model", "half", "--variant", "fp16", "--image", picture("a.png", (250, 0, 0))]
    code, _, err = accel("generate", "a cat", *words, *SHORT, "--device", "cpu", "-o", "0.gif")
    assert code == 0, err


def test_a_file_runs_at_the_rate_that_was_asked_for(accel):
    for rate in (8, 24):
        code, _, err = accel("generate", *SHORT, "--fps", rate, "--device", "cpu", "-o", f"{rate}.mp4")
        assert code == 0, err
        assert next(imageio_ffmpeg.read_frames(f"{rate}.mp4"))["fps"] == rate


def test_a_negative_prompt_and_guidance_change_the_video(accel):
    films = {}
    for name, words in {
        "plain": [],
        "avoid": ["--negative-prompt", "a blue square"],
        "one": ["--guidance", 1],
    }.items():
        code, _, err = accel(
            "generate", "a red circle", *SHORT, *words, "--device", "cpu", "-o", f"{name}.gif"
        )
        assert code == 0, err
        films[name] = np.stack([np.asarray(frame) for frame in read_video(f"{name}.gif")])
    assert (films["plain"] != films["avoid"]).any() and (films["plain"] != films["one"]).any()


@mark.parametrize(
    "words",
    [
        ["--quantize", "torchao-int8"],
        ["--quantize", "quanto-int8"],
        ["--dtype", "bfloat16"],
        ["--offload", "group"],
    ],
    ids=lambda words: words[1],
)
def test_weights_are_quantised_loaded_in_a_type_and_offloaded(words, accel):
    for name in {words[1]} & QUANTISERS.keys():
        importorskip(QUANTISERS[name][0])
    code, told, err = accel("generate", *SHORT, *words, "--device", "cpu", "--json")
    assert code == 0, (words, err)
    assert json.loads(told)["summary"]["sparse_density"] > 0 and "will be ignored" not in err


@mark.parametrize("offload", ["model", "sequential"])
def test_offloading_is_asked_of_the_pipeline(offload, accel, monkeypatch):
    """All of the command but the accelerator: diffusers is asked to offload to it, and does nothing here."""
    calls = []
    monkeypatch.setattr(errors, "devices", lambda: {"cpu": 1, "cuda": 1})
    for name in ("model", "sequential"):
        asking = functools.partial(lambda name, self, device: calls.append((name, device)), name)
        monkeypatch.setattr(
            diffusers.DiffusionPipeline, f"enable_{name}_cpu_offload", functools.partialmethod(asking)
        )
    words = ["--offload", offload, "--device", "cuda", "--dtype", "float32"]
    code, _, err = accel("generate", *SHORT, *words, "-o", "0.gif")
    assert code == 0, err
    assert calls == [(offload, "cuda")]


def test_what_needs_an_accelerator_is_said_before_weights_are_read(accel, monkeypatch):
    no_weights(monkeypatch)
    monkeypatch.setattr(errors, "devices", lambda: {"cpu": 1})
    for words, expected in (
        (["--offload", "model"], "--offload model needs an accelerator"),
        (["--offload", "sequential"], "--offload sequential needs an accelerator"),
        (["--quantize", "bnb-4bit"], "bnb-4bit needs an accelerator"),
        (["--quantize", "bnb-8bit"], "a CPU can take torchao-int8, quanto-int8"),
    ):
        code, _, err = accel("generate", *words, "--device", "cpu")
        assert code == 2 and expected in err, (words, err)
    code, _, err = accel("generate", "--offload", "model", "--device", "cuda")
    assert code == 2 and "PyTorch sees no cuda device here" in err, err


def test_a_variant_that_is_not_there_is_a_sentence(accel):
    code, _, err = accel("generate", "--variant", "fp16", *SHORT, "--device", "cpu")
    assert code == 2 and "cannot load 'demo'" in err and "Traceback" not in err
    assert "neither 'demo'" not in err, err


@mark.parametrize("name", ["none.mp4", "https://example.org/a.mp4", "concat:a.mp4|b.mp4"])
def test_a_video_is_a_file_and_nothing_else_that_ffmpeg_opens(name, accel, monkeypatch):
    no_weights(monkeypatch)
    code, _, err = accel("generate", "--video", name)
    assert code == 2 and f"{name}: no such file" in err


def test_numbers_are_printed_though_the_disk_is_full(accel, monkeypatch):
    import accel.run.video as video

    def full(*_):
        raise OSError(28, "No space left on device", "out/demo.mp4")

    monkeypatch.setattr(video, "write_result", full)
    code, told, err = accel("compare", *SHORT, "--no-placing", "--device", "cpu")
    assert code == 1 and "No space left on device" in err and "Traceback" not in err
    assert "PSNR" in told and "times faster" in told
    code, told, err = accel("generate", *SHORT, "--device", "cpu", "--json")
    assert code == 1 and json.loads(told)["files"] == {"accelerated": None}


def test_files_are_written_though_nobody_reads_the_output(accel, monkeypatch, tmp_path):
    import accel.cli.run_table as run_table

    def closed(*_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(run_table, "print_runs", closed)
    code, _, err = accel("generate", *SHORT, "--device", "cpu", "--dense")
    assert code == 1 and "Traceback" not in err
    assert {file.name for file in tmp_path.glob("*.mp4")} == {"video.mp4", "video-dense.mp4"}
    code, _, err = accel("compare", *SHORT, "--device", "cpu", "--no-placing")
    assert code == 1 and "Traceback" not in err
    assert (tmp_path / "out" / "report.html").exists()
