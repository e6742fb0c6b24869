"""Encoded clips for the transformer to train on, gradually replaced by new ones while it trains."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from scripts.training.video.sizes import Size
from scripts.training.video.streams import Stream, seed_for
from scripts.training.video.whole_clip import encode_clip
from scripts.training.world.draw import draw_clips

CAPTION_TOKENS = 32


class LatentStore:
    """At step s it holds the batches s to s + kept - 1 of an endless series of drawn and encoded clips.

    What it holds depends on the step and the picture size alone, so a resumed run fills it again with the
    same clips. Latents are scaled to mean 0 and deviation 1 with the VAE's own statistics.
    """

    def __init__(
        self, vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, size: Size, pixels: int, seed: int
    ) -> None:
        self.vae, self.tokenizer, self.size, self.pixels, self.seed = vae, tokenizer, size, pixels, seed
        self.shift = torch.tensor(vae.config.latents_mean, device=vae.device)[:, None, None, None]
        self.scale = torch.tensor(vae.config.latents_std, device=vae.device)[:, None, None, None]
        shape = (size.vae["z_dim"], 1 + (size.frames - 1) // 4, pixels // 4, pixels // 4)
        self.latents = torch.empty(size.kept, size.fresh, *shape, device=vae.device)
        self.tokens = torch.empty(size.kept, size.fresh, CAPTION_TOKENS, dtype=torch.int64, device=vae.device)
        self.held: dict[int, int] = {}

    def advance(self, step: int) -> None:
        """Draw and encode what step number `step` needs and does not have yet."""
        for batch in range(step, step + self.size.kept):
            slot = batch % self.size.kept
            if self.held.get(slot) != batch:
                self.latents[slot], self.tokens[slot] = self._encode(batch)
                self.held[slot] = batch

    def sample(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` latents [count, z, f, h, w] and their captions' token ids [count, 32], drawn with `rng`."""
        every = self.size.kept * self.size.fresh
        rows = torch.randint(every, (count,), generator=rng, device=self.latents.device)
        return self.latents.flatten(0, 1)[rows], self.tokens.flatten(0, 1)[rows]

    @torch.no_grad()
    def _encode(self, batch: int) -> tuple[Tensor, Tensor]:
        device = self.vae.device
        video, captions = draw_clips(
            self.size.fresh,
            self.size.frames,
            self.pixels,
            self.pixels,
            seed=seed_for(self.seed, Stream.LATENTS, batch),
            device=device,
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            mean, _ = encode_clip(self.vae, video)
        ids = self.tokenizer(captions, padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt")
        return (mean.float() - self.shift) / self.scale, ids.input_ids.to(device)
