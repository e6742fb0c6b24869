"""Video files: what is written can be read back, at the same size, and a failure leaves nothing behind."""

from __future__ import annotations

import base64
import errno
import re
import shutil
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from accel.mistake import Mistake
from accel.run import video
from accel.run.video import read_video, write_image, write_video


def moving_square(frames: int = 5, height: int = 34, width: int = 46) -> torch.Tensor:
    clip = torch.empty(frames, height, width, 3)
    clip[:] = torch.tensor([0.15, 0.35, 0.75])
    for frame in range(frames):
        clip[frame, 8:24, 4 + 4 * frame : 20 + 4 * frame] = torch.tensor([0.9, 0.3, 0.1])
    return clip


def decode(path) -> tuple[np.ndarray, dict]:
    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    width, height = facts["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return np.stack(frames) / 255, facts


@pytest.mark.parametrize("fps", [16, 12.5, 24000 / 1001], ids="fps{:.2f}".format)
def test_mp4_holds_the_frames_and_their_colours(tmp_path, fps):
    clip = moving_square()
    written = write_video(clip, tmp_path / "clip.mp4", fps)
    frames, facts = decode(written)
    assert written == tmp_path / "clip.mp4"
    assert frames.shape == tuple(clip.shape)
    assert facts["codec"] == "h264" and "yuv420p" in facts["pix_fmt"] and "bt709" in facts["pix_fmt"]
    assert facts["fps"] == pytest.approx(fps, abs=0.01)
    # Only colour is stored at half the resolution, so luma-heavy flat regions survive to within a few levels.
    assert np.abs(frames - clip.numpy()).mean() < 4 / 255
    assert np.abs(frames[0, 12:20, 8:16] - clip[0, 12:20, 8:16].numpy()).max() < 6 / 255


@pytest.mark.parametrize("size", [(33, 46), (34, 45), (33, 45), (2, 2), (1, 1)], ids="{0[0]}x{0[1]}".format)
def test_odd_sizes_repeat_the_edge_and_are_not_rescaled(tmp_path, size):
    clip = moving_square(3)[:, : size[0], : size[1]]
    frames, _ = decode(write_video(clip, tmp_path / "odd.mp4", 8))
    height, width = (length + length % 2 for length in size)
    assert frames.shape == (3, height, width, 3)
    assert np.abs(frames[:, : size[0], : size[1]] - clip.numpy()).mean() < 4 / 255
    assert np.abs(frames[:, -1, : size[1]] - clip[:, -1].numpy()).mean() < 6 / 255


def test_gif_keeps_size_and_length(tmp_path):
    clip = moving_square(4, 33, 45)
    frames, facts = decode(write_video(clip, tmp_path / "clip.gif", 10))
    assert frames.shape == tuple(clip.shape) and "gif" in facts["codec"]
    assert np.abs(frames - clip.numpy()).mean() < 4 / 255


def test_one_bfloat16_frame_out_of_range_is_clamped(tmp_path):
    frames, _ = decode(
        write_video(torch.full((1, 16, 16, 3), 1.5, dtype=torch.bfloat16), tmp_path / "one.mp4", 8)
    )
    assert frames.shape == (1, 16, 16, 3) and frames.min() > 0.98


@pytest.mark.parametrize("name", ["clip.avi", "clip", "clip.MP4.txt"])
def test_other_endings_are_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"\.mp4, \.gif"):
        write_video(moving_square(), tmp_path / name, 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (torch.rand(3, 8, 8, 1), 8, r"\[3, 8, 8, 1\]"),
        (torch.rand(8, 8, 3), 8, r"\[8, 8, 3\]"),
        (torch.zeros(0, 8, 8, 3), 8, r"\[0, 8, 8, 3\]"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), 8, "uint8"),
        (torch.rand(1, 8, 8, 3), 0, "fps must be above 0, got 0"),
    ],
    ids=["grey", "no-frames-axis", "empty", "uint8", "fps0"],
)
def test_what_is_no_rgb_video_is_refused(tmp_path, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        write_video(frames, tmp_path / "clip.mp4", fps)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot write to this folder.*missing"):
        write_video(moving_square(), tmp_path / "missing" / "clip.mp4", 8)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"cannot write to this folder.*file"):
        write_video(moving_square(), tmp_path / "file" / "clip.mp4", 8)


def test_a_failing_encoder_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = write_video(moving_square(), tmp_path / "clip.mp4", 8)
    before = path.read_bytes()
    monkeypatch.setitem(video.ENCODERS, ".mp4", {"-codec:v": "no_such_encoder"})
    with pytest.raises(RuntimeError, match="no_such_encoder"):
        write_video(moving_square() / 2, path, 8)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_as_readable_as_the_umask_allows(tmp_path):
    (tmp_path / "plain").touch()
    path = write_video(moving_square(), tmp_path / "clip.mp4", 8)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


FLAT = ((233, 41, 44), (12, 200, 90), (30, 60, 220))


def flat(colour: tuple[int, int, int]) -> torch.Tensor:
    return (torch.tensor(colour) / 255).expand(6, 48, 64, 3)


def test_an_mp4_declares_its_matrix_primaries_transfer_and_range(tmp_path):
    """A browser guesses what is left open: (215, 20, 45) was shown for (233, 41, 44)."""
    path = write_video(flat(FLAT[0]), tmp_path / "flat.mp4", 8)
    told = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True
    ).stderr
    # One name stands for the three where they are equal.
    assert re.search(r"Video: h264.*yuv420p\(tv, bt709[,)]", told), told


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
READ_PIXELS = """<body><script>
const video = document.createElement("video"), canvas = document.createElement("canvas");
video.muted = true; video.src = "data:video/mp4;base64,%s";
let seeks = 0;
const seek = () => { video.currentTime = 0.1 + 0.1 * (seeks++ & 3); };
video.addEventListener("loadeddata", seek);
video.addEventListener("seeked", () => {
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const context = canvas.getContext("2d"); context.drawImage(video, 0, 0);
  const pixel = context.getImageData(20, 20, 1, 1).data;
  if (pixel[0] + pixel[1] + pixel[2]) document.body.dataset.pixel = pixel; else seek();
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("colour", FLAT[:2], ids=str)
def test_a_browser_shows_the_colours_that_were_written(tmp_path, colour):
    clip = base64.b64encode(write_video(flat(colour), tmp_path / "flat.mp4", 8).read_bytes()).decode()
    page = tmp_path / "page.html"
    page.write_text(READ_PIXELS % clip)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000", "--dump-dom"]
    for _ in range(3):
        done = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
        if shown := re.search(r'data-pixel="([\d,]+)"', done.stdout):
            break
    else:
        pytest.skip("this browser shows no frame before its time is up")
    pixel = [int(value) for value in shown[1].split(",")[:3]]
    assert max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= 6, pixel


def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path, monkeypatch):
    said = b"av_interleaved_write_frame(): No space left on device"
    done = subprocess.CompletedProcess([], 1, b"", said)
    monkeypatch.setattr(video.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(OSError, match="No space left on device") as full:
        write_video(moving_square(), tmp_path / "clip.mp4", 8)
    assert full.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_a_video_is_read_as_it_was_written(tmp_path, ending):
    clip = moving_square(5, 34, 46)
    frames = read_video(write_video(clip, tmp_path / f"clip{ending}", 8))
    assert len(frames) == 5 and frames[0].size == (46, 34)
    assert np.abs(np.asarray(frames[2]) / 255 - clip[2].numpy()).mean() < 4 / 255


@pytest.mark.parametrize("content", [b"", b"not a video", None])
def test_what_is_not_a_video_is_a_mistake(tmp_path, content):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Mistake, match="no such file" if content is None else "is not a video"):
        read_video(path)


def test_an_image_is_kept_to_the_last_level(tmp_path):
    image = torch.rand(33, 45, 3)
    path = write_image(image, tmp_path / "image.png")
    kept = np.asarray(Image.open(path))
    assert kept.shape == (33, 45, 3) and (kept == (image * 255).round().to(torch.uint8).numpy()).all()
