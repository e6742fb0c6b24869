"""What stands in for the components of a pipeline that are not under test: VAEs, encoders, tokenizers.

Text encoders need none, their embeddings are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tiny_inputs import noise


class StandIn(nn.Module):
    """A component without weights that matter, on the CPU."""

    dtype, device = torch.float32, torch.device("cpu")


class StandInVae(StandIn):
    """Scales pixels to a latent, by mean over patches; knows the sizes a pipeline asks for.

    Args:
        channels: of the latent.
        spatial, temporal: pixels and frames of one latent cell.
    """

    def __init__(self, channels: int = 4, spatial: int = 8, temporal: int = 4, **config: Any) -> None:
        super().__init__()
        self.channels, self.spatial, self.temporal = channels, spatial, temporal
        self.spatial_compression_ratio, self.temporal_compression_ratio = spatial, temporal
        known = {
            "latent_channels": channels,
            "z_dim": channels,
            "scaling_factor": 1.0,
            "shift_factor": 0.0,
            "invert_scale_latents": False,
            "latents_mean": [0.0] * channels,
            "latents_std": [1.0] * channels,
            "scale_factor_spatial": spatial,
            "spatial_compression_ratio": spatial,
            "scale_factor_temporal": temporal,
            "temporal_compression_ratio": temporal,
            "block_out_channels": [1] * (spatial.bit_length()),
        }
        self.config = SimpleNamespace(**{**known, **config}, get=lambda name, default=None: default)
        self.latents_mean, self.latents_std = torch.zeros(channels), torch.ones(channels)
        halved = temporal.bit_length() - 1
        self.temperal_downsample = [False] * (spatial.bit_length() - 1 - halved) + [True] * halved

    def encode(self, pixels: Tensor, **_: Any) -> Any:
        frames = torch.cat([pixels[:, :, :1].expand(-1, -1, self.temporal - 1, -1, -1), pixels], dim=2)
        cells = nn.functional.avg_pool3d(frames, (self.temporal, self.spatial, self.spatial))
        latent = cells.mean(dim=1, keepdim=True).repeat(1, self.channels, 1, 1, 1)
        return SimpleNamespace(
            latent_dist=SimpleNamespace(sample=lambda *_, **__: latent, mode=lambda: latent)
        )

    def decode(self, latent: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        pixels = latent[:, :1].repeat(1, 3, 1, 1, 1).repeat_interleave(self.temporal, dim=2)
        frames = pixels[:, :, self.temporal - 1 :]
        return (frames.repeat_interleave(self.spatial, dim=3).repeat_interleave(self.spatial, dim=4),)


class Pixels(dict):
    """What an image processor returns."""

    def to(self, *_: Any, **__: Any) -> Pixels:
        return self


class StandInImageEncoder(StandIn):
    """Embeds any image as the same few tokens.

    Args:
        tokens, channels: of the embedding.
    """

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(noise(1, tokens, channels), requires_grad=False)

    def forward(self, **_: Any) -> Any:
        return SimpleNamespace(hidden_states=[self.embedding] * 3, last_hidden_state=self.embedding)


def image_processor(*_: Any, **__: Any) -> Pixels:
    """Stands in for the processor of an image encoder that looks at nothing."""
    return Pixels(pixel_values=torch.zeros(1))


class Unchecked(StandIn):
    """A safety checker that has no objections."""

    def check_text_safety(self, prompt: Any) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


class StandInTokenizer:
    """A chat template that makes as many tokens as a prompt has letters."""

    eos_token_id, pad_token_id = 2, 0

    def convert_tokens_to_ids(self, token: str) -> int:
        return 1

    def apply_chat_template(self, conversation: Any, **_: Any) -> Any:
        letters = conversation[-1]["content"]
        return SimpleNamespace(input_ids=[3 + ord(letter) % 29 for letter in letters])


class StandInProcessor(StandIn):
    """Qwen-Image 2.1's processor, asked for the length of its system prompt and the token of an image."""

    tokenizer = SimpleNamespace(encode=lambda text: [1])

    def apply_chat_template(self, conversation: Any, **_: Any) -> list[list[int]]:
        return [[0, 1, 2]]


class PassOn(StandIn):
    """LTX-2's text connectors: video and audio get the embeddings as they are."""

    def forward(self, embeds: Tensor, mask: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
        return embeds, embeds, mask


def with_audio() -> dict[str, Any]:
    """What LTX-2 has besides: an audio VAE of 4 mel bins of latent, and connectors."""
    audio = StandInVae(channels=1, sample_rate=16000, mel_hop_length=160, mel_bins=16)
    audio.mel_compression_ratio = 4
    audio.latents_mean, audio.latents_std = torch.zeros(4), torch.ones(4)
    return {"vae": StandInVae(spatial=32, temporal=8), "audio_vae": audio, "connectors": PassOn()}


def vae(**config: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"vae": StandInVae(**config)}


def seeing() -> dict[str, Any]:
    """A VAE and an image encoder."""
    encoder = StandInImageEncoder(6, 16)
    return {"vae": StandInVae(), "image_encoder": encoder, "image_processor": image_processor}


def picture(size: tuple[int, int, int], pixels: int = 16, prompts: int = 1) -> Tensor:
    """An image [B, 3, rows, columns] in [0, 1] of that many tokens of `pixels` pixels a side."""
    return noise(prompts, 3, size[1] * pixels, size[2] * pixels).sigmoid()


def clip(size: tuple[int, int, int], frames: int, pixels: int = 16) -> list[Any]:

    return [
        Image.new("RGB", (size[2] * pixels, size[1] * pixels), (20 * n % 255, 90, 40)) for n in range(frames)
    ]
