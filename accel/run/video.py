"""Read videos, and write a video tensor to a file that browsers play (H.264) or to a GIF.

Both are for looking at: quality is measured from the tensors.
"""

from __future__ import annotations

import errno
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from accel.files import whole_file
from accel.mistake import Mistake

# BT.709 is converted to and also declared: browsers guess what the stream leaves open, and guess wrong. The
# encoder takes the declaration from the frames, so a filter has to make it.
BT709 = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
H264 = {
    "-vf": f"scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,{BT709}",
    "-codec:v": "libx264",
    "-pix_fmt": "yuv420p",
    "-crf": "12",
    "-preset": "medium",
    "-movflags": "+faststart",
}
GIF = {"-vf": "split[all][seen];[all]palettegen[colours];[seen][colours]paletteuse", "-loop": "0"}
ENCODERS = {".mp4": H264, ".gif": GIF}


class EncodeError(RuntimeError):
    """ffmpeg could not encode a video."""


def write_video(frames: Tensor, path: str | Path, fps: float) -> Path:
    """Encode `frames` to `path`; the file appears whole or not at all, and is never rescaled.

    An MP4 of odd height or width gets its last row or column once more: 4:2:0 video stores colour at half
    the resolution and cannot hold an odd size.

    Args:
        frames: floating [F, H, W, 3] in [0, 1]; values outside are clamped.
        path: ends in .mp4 or .gif; a file already there is replaced.
        fps: frames per second, above 0.

    Returns:
        the path.

    Raises:
        ValueError: if the tensor is not an RGB video, the ending is another one, or fps is not above 0.
        OSError: if the folder does not exist or cannot be written, or the disk is full.
        EncodeError: if ffmpeg fails; with what it said.
    """
    path = Path(path)
    if path.suffix not in ENCODERS:
        raise ValueError(
            f"{path}: a video ends in one of {', '.join(ENCODERS)}, got {path.suffix or 'no ending'!r}"
        )
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    pixels = as_bytes(frames)
    if path.suffix == ".mp4":
        pixels = np.pad(pixels, [(0, 0), *((0, size % 2) for size in pixels.shape[1:3]), (0, 0)], mode="edge")
    with whole_file(path) as partial:
        _encode(pixels, partial, fps, ENCODERS[path.suffix])
    return path


def read_video(path: str | Path) -> list[Image.Image]:
    """Every frame of a video or GIF file, in RGB.

    Raises:
        Mistake: if it cannot be read, or holds no frame.
    """
    if not Path(path).is_file():
        raise Mistake(f"{path}: no such file")
    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        width, height = next(reader)["size"]
        frames = [Image.frombytes("RGB", (width, height), frame) for frame in reader]
    except (OSError, RuntimeError, StopIteration, KeyError, ValueError) as error:
        raise Mistake(f"{path}: is not a video that ffmpeg can read") from error
    if not frames:
        raise Mistake(f"{path}: holds no frame")
    return frames


def write_image(frame: Tensor, path: str | Path) -> Path:
    """Write one image as PNG, whole or not at all.

    Args:
        frame: floating [H, W, 3] in [0, 1]; values outside are clamped.
        path: ends in .png; a file already there is replaced.

    Raises:
        ValueError: if the tensor is not an RGB image.
        OSError: if the folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    with whole_file(path) as partial:
        Image.fromarray(as_bytes(frame.unsqueeze(0))[0]).save(partial, format="PNG")
    return path


def write_result(frames: Tensor, path: Path, fps: float) -> Path:
    """Write what a pipeline made, [F, H, W, 3]: as a video, or its only frame as an image."""
    return write_image(frames[0], path) if path.suffix == ".png" else write_video(frames, path, fps)


def as_bytes(frames: Tensor) -> np.ndarray:
    """Floating [F, H, W, 3] in [0, 1] as uint8; values outside are clamped.

    Raises:
        ValueError: if the tensor is not an RGB video.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel() or not frames.is_floating_point():
        raise ValueError(f"expected floating frames [F, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    return (frames.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _encode(pixels: np.ndarray, path: Path, fps: float, encoder: dict[str, str]) -> None:
    _, height, width, _ = pixels.shape
    rate = str(Fraction(fps).limit_denominator(1001))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", rate]
    options = [word for option in encoder.items() for word in option]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, "-i", "-", *options, str(path)]
    done = subprocess.run(command, input=pixels.tobytes(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        if os.strerror(errno.ENOSPC) in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        raise EncodeError(f"ffmpeg could not encode {width} x {height} frames: {said}")
