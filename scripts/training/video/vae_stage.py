"""Train the demo's VAE: reconstruct small crops of whole clips, and measure its latents when it is done."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from scripts.training.budget import Schedule
from scripts.training.loop import Stage
from scripts.training.muon import muon_and_adamw
from scripts.training.video.sizes import Size
from scripts.training.video.streams import Stream, generator_for, seed_for
from scripts.training.video.whole_clip import allow_whole_clips, decode_clip, encode_clip
from scripts.training.world.draw import draw_clips

CLIPS_A_DRAW = 16
MEASURED_CLIPS = 32
LARGE_CROP_EVERY = 10


class VaeStage(Stage):
    """Squared error + 0.2 absolute error + 1e-4 KL divergence, all means, on crops from a pool of clips."""

    schedule = Schedule(peak=2e-3, decay=0.6)
    average_decay = 0.998

    def __init__(self, size: Size, size_name: str, seed: int, device: torch.device) -> None:
        self.size, self.seed, self.device = size, seed, device
        self.facts = {"stage": "vae", "size": size_name, "seed": str(seed)}
        torch.manual_seed(seed)
        self.model = AutoencoderKLWan(**size.vae, **unit_latents(size)).to(device)
        allow_whole_clips(self.model)
        self.pool = self._draw_pool()

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon on the convolution kernels, AdamW on biases and norms."""
        return muon_and_adamw(self.model, lambda name, param: _is_kernel(param), self.schedule.peak)

    def loss(self, step: int, progress: float) -> Tensor:
        """The loss of step number `step`: a batch of small crops, or every tenth time one large crop."""
        video = self._crops(step)
        rng = generator_for(self.seed, Stream.VAE_STEP, step, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            mean, log_variance = (part.float() for part in encode_clip(self.model, video))
            noise = torch.randn(mean.shape, generator=rng, device=self.device)
            seen = decode_clip(self.model, mean + noise * torch.exp(log_variance / 2)).float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return F.mse_loss(seen, video) + 0.2 * F.l1_loss(seen, video) + 1e-4 * divergence

    @torch.no_grad()
    def measure(self) -> dict[str, object]:
        """PSNR in dB on 32 clips never trained on, and mean and deviation of their latents by channel."""
        errors, latents = [], []
        for place in range(MEASURED_CLIPS // 4):
            seed = seed_for(self.seed, Stream.MEASURED, place)
            video, _ = draw_clips(4, self.size.frames, *self._sides(), seed=seed, device=self.device)
            mean, _ = encode_clip(self.model, video)
            seen = decode_clip(self.model, mean).clamp(-1, 1)
            errors.append((seen - video).square().mean(dim=(1, 2, 3, 4)))
            latents.append(mean.transpose(0, 1).flatten(1))
        by_channel = torch.cat(latents, dim=1)
        return {
            "psnr_db": (10 * torch.log10(4 / torch.cat(errors))).mean().item(),
            "latents_mean": [round(value, 5) for value in by_channel.mean(dim=1).tolist()],
            "latents_std": [round(value, 5) for value in by_channel.std(dim=1).tolist()],
        }

    def _sides(self) -> tuple[int, int]:
        return self.size.pixels, self.size.pixels

    def _draw_pool(self) -> Tensor:
        pool = torch.empty(self.size.pool, 3, self.size.frames, *self._sides(), dtype=torch.uint8)
        pool = pool.to(self.device)
        for place, clips in enumerate(pool.split(CLIPS_A_DRAW)):
            seed = seed_for(self.seed, Stream.POOL, place)
            video, _ = draw_clips(len(clips), *clips.shape[2:], seed=seed, device=self.device)
            clips.copy_(((video + 1) * 127.5).round())
        return pool

    def _crops(self, step: int) -> Tensor:
        large = step % LARGE_CROP_EVERY == LARGE_CROP_EVERY - 1
        side, count = (self.size.whole, 1) if large else (self.size.crop, self.size.crops)
        rng = generator_for(self.seed, Stream.VAE_STEP, step)
        clips = torch.randint(len(self.pool), (count,), generator=rng).tolist()
        corners = torch.randint(self.size.pixels - side + 1, (count, 2), generator=rng).tolist()
        crops = [
            self.pool[i, :, :, y : y + side, x : x + side] for i, (y, x) in zip(clips, corners, strict=True)
        ]
        return torch.stack(crops).float() / 127.5 - 1


def unit_latents(size: Size) -> dict[str, list[float]]:
    """The latent statistics of a VAE that has not been measured yet."""
    return {"latents_mean": [0.0] * size.vae["z_dim"], "latents_std": [1.0] * size.vae["z_dim"]}


def _is_kernel(param: Tensor) -> bool:
    # norms are stored as [C, 1, 1] or [C, 1, 1, 1], which is a vector
    return param.ndim >= 4 and param[0].numel() > 1
