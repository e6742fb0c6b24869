"""Anchors are measured on tensors; a row is not measured twice."""

import json

import torch

from scripts.quality import anchors


class Run:
    def __init__(self, frames):
        self.frames, self.latents = frames, torch.ones(1, 4, 2, 3, 3)


def test_rows_are_written_once_and_the_dense_run_is_kept(tmp_path, monkeypatch):
    dense = torch.rand(3, 32, 32, 3) * 0.2
    made = []

    def generate(pipe, settings):
        made.append(settings)
        return Run(dense if settings.num_inference_steps == 8 else dense + 0.1)

    monkeypatch.setattr(anchors, "load_pipeline", lambda *_: None)
    monkeypatch.setattr(anchors, "generate", generate)
    file = tmp_path / "anchors.jsonl"
    for _ in range(2):
        anchors.main(file, 1, ["mp4 at default quality", "half the steps"])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = {row["arm"]: row for row in rows if "arm" in row}
    assert 0 < found["mp4 at default quality"]["ssim"] < 1 and found["half the steps"]["latent_error"] == 0
    assert [settings.num_inference_steps for settings in made] == [8, 4]
    assert {settings.seed for settings in made} == {1} and made[0].height == 128
