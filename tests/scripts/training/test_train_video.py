"""Training the demo: exact whole-clip VAE, orthogonal updates, exact resumption, a pipeline that loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from diffusers import AutoencoderKLWan, WanPipeline
from safetensors.torch import load_file
from typer.testing import CliRunner

from scripts.training.budget import Budget, Schedule
from scripts.training.checkpoint import average_of
from scripts.training.loop import train
from scripts.training.muon import muon
from scripts.training.video import train as train_demo
from scripts.training.video.finished import load_vae, save_vae
from scripts.training.video.sizes import SIZES, Phase
from scripts.training.video.streams import Stream, seed_for
from scripts.training.video.transformer_stage import TransformerStage, encode_text, sample_sigma
from scripts.training.video.vae_stage import VaeStage, unit_latents
from scripts.training.video.whole_clip import allow_whole_clips, decode_clip, encode_clip

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
TOY = replace(SIZES["toy"], pool=8, kept=2)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory) -> Path:
    """A toy VAE that has not been trained, with measured latents."""
    folder = tmp_path_factory.mktemp("vae") / "vae"
    save_vae(folder, VaeStage(TOY, "toy", 0, CPU))
    return folder


def transformer_stage(vae_folder: Path, seed: int = 0) -> TransformerStage:
    return TransformerStage(TOY, "toy", seed, CPU, *load_vae(vae_folder))


@pytest.mark.parametrize("frames", [1, 5, 13], ids="F{}".format)
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
def test_whole_clip_forward_equals_the_chunked_one(frames, residual):
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**TOY.vae | {"is_residual": residual}, **unit_latents(TOY)).double()
    video = torch.randn(2, 3, frames, 16, 24, dtype=torch.float64).clamp(-1, 1)
    with torch.no_grad():
        posterior = vae.encode(video).latent_dist
        pixels = vae.decode(posterior.mean).sample
        allow_whole_clips(vae)
        mean, log_variance = encode_clip(vae, video)
        direct = decode_clip(vae, mean).clamp(-1, 1)
        chunked_still = vae.decode(mean).sample
    torch.testing.assert_close(mean, posterior.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_variance, posterior.logvar, rtol=0, atol=1e-12)
    torch.testing.assert_close(direct, pixels, rtol=0, atol=1e-12)
    torch.testing.assert_close(chunked_still, pixels, rtol=0, atol=1e-12)
    assert pixels.shape == video.shape


def test_whole_clip_refuses_other_lengths():
    with pytest.raises(ValueError, match="4n \\+ 1 frames, got 8"):
        encode_clip(AutoencoderKLWan(**TOY.vae, **unit_latents(TOY)), torch.zeros(1, 3, 8, 16, 16))


@pytest.mark.parametrize("shape", [(6, 6), (5, 17), (17, 5), (3, 4, 9)], ids=str)
def test_muon_directions_are_orthogonal(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape).flatten(1)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = matrix.reshape(shape)
    muon([weight], lr=1.0).step()
    made = -weight.detach().flatten(1) / (0.2 * max(matrix.shape) ** 0.5)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5 and values.max() < 1.3
    assert ((left @ right) * made).sum() / ((left @ right).norm() * made.norm()) > 0.97


def test_muon_sees_kernels_as_matrices():
    torch.manual_seed(2)
    first, second = (torch.nn.Parameter(torch.randn(4, 3, 1, 2, 2)) for _ in range(2))
    alone = torch.nn.Parameter(first.detach().flatten(1).clone())
    together, apart = muon([first, second], lr=0.1), muon([alone], lr=0.1)
    for _ in range(3):
        first.grad, second.grad = torch.randn_like(first), torch.randn_like(second)
        alone.grad = first.grad.flatten(1).clone()
        together.step()
        apart.step()
    torch.testing.assert_close(first.flatten(1), alone)


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match="2D parameters"):
        muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def test_muon_finds_a_minimum():
    torch.manual_seed(3)
    weight, target = torch.nn.Parameter(torch.zeros(8, 5)), torch.randn(8, 5)
    optimizer = muon([weight], lr=0.1)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 100)
        weight.grad = None
        (weight - target).square().mean().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.1


def test_average_follows():
    model = torch.nn.Linear(2, 2)
    average = average_of(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    for _ in range(200):
        average.update_parameters(model)
    with torch.no_grad():
        model.weight.zero_()
    model.load_state_dict(average.module.state_dict())
    torch.testing.assert_close(model.weight, torch.full((2, 2), 3.0))


def test_average_forgets_the_start():
    model = torch.nn.Linear(1, 1, bias=False)
    average = average_of(model, decay=0.9)
    with torch.no_grad():
        model.weight.zero_().add_(1)
        average.module.weight.zero_()
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.9)
    with pytest.raises(ValueError, match="decay"):
        average_of(model, decay=1.0)


def test_budget_and_schedule():
    assert Budget(steps=8).progress(2, seconds=1e9) == 0.25
    assert Budget(minutes=2).progress(10**9, seconds=30) == 0.25
    schedule = Schedule(peak=2.0, decay=0.5, warmup=3)
    assert [schedule.rate(step, 0.0) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert [schedule.rate(10, progress) for progress in (0.5, 0.75, 1.0, 1.1)] == [2.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("wrong", [{}, {"minutes": 1, "steps": 1}, {"steps": 0}, {"minutes": -1}], ids=str)
def test_budget_refuses(wrong):
    with pytest.raises(ValueError, match="got minutes"):
        Budget(**wrong)


def test_phases_follow_the_progress():
    assert [SIZES["small"].phase(at).pixels for at in (0, 0.1, 0.15, 0.2, 0.99, 1.0)] == [96, 128, 128] + [
        192
    ] * 3
    with pytest.raises(ValueError, match="last phase"):
        replace(TOY, phases=(Phase(0.5, 32, 1),))


def test_small_is_the_shipped_configuration():
    from accel.demo.paths import DEMO_VIDEO

    small = SIZES["small"]
    for part in ("vae", "text_encoder", "transformer"):
        shipped = json.loads((DEMO_VIDEO / part / "config.json").read_text())
        for key, value in getattr(small, part).items():
            if key != "feed_forward_proj" or part == "text_encoder":
                assert shipped[key] == (list(value) if isinstance(value, tuple) else value), (part, key)


def test_seeds_differ_by_run_stream_and_place():
    seeds = {seed_for(seed, stream, place) for seed in range(3) for stream in Stream for place in range(50)}
    assert len(seeds) == 3 * len(Stream) * 50
    assert seed_for(1, Stream.POOL, 2) == seed_for(1, Stream.POOL, 2)


def test_sigma_is_shifted_towards_noise():
    sigma = sample_sigma(20000, 3.0, torch.Generator().manual_seed(0))
    assert sigma.min() > 0 and sigma.max() < 1
    # both halves are symmetric about 1/2 before the shift, which sends 1/2 to 3/4
    assert (sigma > 0.75).float().mean() == pytest.approx(0.5, abs=0.02)


def test_text_states_are_those_of_the_pipeline(vae_folder):
    stage = transformer_stage(vae_folder)
    pipeline = WanPipeline(
        tokenizer=stage.tokenizer,
        text_encoder=stage.model["text_encoder"],
        vae=stage.vae,
        scheduler=None,
        transformer=stage.model["transformer"],
    )
    prompts = ["a red circle bouncing over a navy striped background", ""]
    tokens = stage.tokenizer(prompts, padding="max_length", max_length=32, return_tensors="pt").input_ids
    with torch.no_grad():
        ours = encode_text(stage.model["text_encoder"], tokens, 48)
        theirs, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=48)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_vae_training_lowers_the_loss(tmp_path):
    stage = VaeStage(TOY, "toy", 0, CPU)
    losses: list[float] = []
    train(stage, Budget(steps=40), tmp_path / "c", on_step=lambda _, loss: losses.append(loss.item()))
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_transformer_training_lowers_the_loss(vae_folder, tmp_path):
    stage = transformer_stage(vae_folder)
    losses: list[float] = []
    train(stage, Budget(steps=40), tmp_path / "c", on_step=lambda _, loss: losses.append(loss.item()))
    assert losses[0] == pytest.approx(2, rel=0.3), (
        "an untrained model predicts 0 for unit noise minus unit latents"
    )
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_resumed_run_equals_uninterrupted_run(part, vae_folder, tmp_path):
    def stage():
        return VaeStage(TOY, "toy", 5, CPU) if part == "vae" else transformer_stage(vae_folder, seed=5)

    def stop_at_four(step: int, loss: torch.Tensor) -> None:
        if step == 4:
            raise KeyboardInterrupt

    budget, stopped, whole = Budget(steps=7), tmp_path / "stopped.safetensors", tmp_path / "whole.safetensors"
    train(straight := stage(), budget, whole)
    with pytest.raises(KeyboardInterrupt):
        train(stage(), budget, stopped, seconds_between_checkpoints=0, on_step=stop_at_four)
    midway = load_file(stopped)
    outcome = train(resumed := stage(), budget, stopped)
    assert outcome.steps == 7

    end, straight_end = load_file(stopped), load_file(whole)
    assert end.keys() == straight_end.keys() and any(key.startswith("optimizer1/") for key in end)
    assert all(torch.equal(end[key], straight_end[key]) for key in end)
    assert not all(torch.equal(midway[key], end[key]) for key in end)
    weights = zip(resumed.model.parameters(), straight.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_checkpoint_of_another_run_is_refused(tmp_path):
    train(VaeStage(TOY, "toy", 0, CPU), Budget(steps=1), tmp_path / "c")
    with pytest.raises(ValueError, match="seed=0, this run has seed=1"):
        train(VaeStage(TOY, "toy", 1, CPU), Budget(steps=1), tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"], "an unfinished file was left"


def test_command_line_trains_resumes_and_saves_a_pipeline(tmp_path, monkeypatch):
    monkeypatch.setitem(train_demo.SIZES, "toy", TOY)
    app = typer.Typer()
    app.command()(train_demo.main)
    command = ["--size", "toy", "--steps", "2", "--device", "cpu", "--out", str(tmp_path)]

    early = CliRunner().invoke(app, [*command, "--stage", "transformer"])
    assert early.exit_code == 2 and "no finished VAE" in early.output
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "--resume" in again.output
    resumed = CliRunner().invoke(app, [*command, "--resume"], catch_exceptions=False)
    assert resumed.exit_code == 0 and "vae: kept" in resumed.output

    notes = json.loads((tmp_path / "training.json").read_text())
    assert notes["vae"]["steps"] == notes["transformer"]["steps"] == 2
    pipeline = WanPipeline.from_pretrained(tmp_path / "pipeline", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae.config.latents_mean == notes["vae"]["latents_mean"]
    settings = {
        "height": 32,
        "width": 48,
        "num_frames": 5,
        "num_inference_steps": 2,
        "max_sequence_length": 32,
    }
    frames = pipeline(
        "a red circle growing over a black plain background",
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **settings,
    ).frames
    assert frames.shape == (1, 5, 32, 48, 3) and np.isfinite(frames).all() and frames.std() > 0
