"""Train the demo's text encoder and transformer together by flow matching (arXiv 2210.02747).

A latent x0 is mixed with noise, (1 - sigma) x0 + sigma noise, and the transformer is asked for noise - x0 at
timestep 1000 sigma, which is what UniPC with `flow_prediction` expects.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from scripts.training.budget import Schedule
from scripts.training.loop import Stage
from scripts.training.muon import muon_and_adamw
from scripts.training.tokenizer import word_tokenizer
from scripts.training.video.latent_store import LatentStore
from scripts.training.video.sizes import Size
from scripts.training.video.streams import Stream, generator_for
from scripts.training.video.whole_clip import allow_whole_clips
from scripts.training.world.words import vocabulary

EMPTY_PROMPTS = 0.1
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


class TransformerStage(Stage):
    """Mean squared error of the predicted flow on latents of a finished VAE, a tenth without prompt."""

    average_decay = 0.9985

    def __init__(
        self,
        size: Size,
        size_name: str,
        seed: int,
        device: torch.device,
        vae: AutoencoderKLWan,
        vae_digest: str,
    ) -> None:
        self.size, self.seed, self.device = size, seed, device
        self.facts = {"stage": "transformer", "size": size_name, "seed": str(seed), "vae": vae_digest}
        self.schedule = Schedule(peak=1.5e-3, decay=0.6, warmup=size.warmup)
        self.vae, self.tokenizer = vae.to(device).requires_grad_(False), build_tokenizer()
        allow_whole_clips(self.vae)
        torch.manual_seed(seed)
        transformer, text_encoder = build_transformer(size), build_text_encoder(size)
        self.model = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder}).to(device)
        if device.type == "cuda":
            transformer.compile_repeated_blocks()
        self.store: LatentStore | None = None

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon on the matrices of the transformer's blocks, AdamW on everything else."""

        def is_matrix(name: str, param: Tensor) -> bool:
            return name.startswith("transformer.blocks.") and param.ndim == 2

        return muon_and_adamw(self.model, is_matrix, self.schedule.peak)

    def loss(self, step: int, progress: float) -> Tensor:
        """The loss of step number `step`, at the picture size that `progress` calls for."""
        phase = self.size.phase(progress)
        if self.store is None or self.store.pixels != phase.pixels:
            self.store = LatentStore(self.vae, self.tokenizer, self.size, phase.pixels, self.seed)
        self.store.advance(step)
        rng = generator_for(self.seed, Stream.TRANSFORMER_STEP, step, self.device)
        latents, tokens = self.store.sample(phase.batch, rng)
        tokens = self._without_some_prompts(tokens, rng)
        sigma = sample_sigma(phase.batch, 3.0 if phase.pixels >= 160 else 2.0, rng)
        noise = torch.randn(latents.shape, generator=rng, device=self.device)
        mix = sigma[:, None, None, None, None]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            text = encode_text(self.model["text_encoder"], tokens, self._text_length(step))
            flow = self.model["transformer"](
                hidden_states=(1 - mix) * latents + mix * noise,
                timestep=1000 * sigma,
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        return F.mse_loss(flow.float(), noise - latents)

    def _without_some_prompts(self, tokens: Tensor, rng: torch.Generator) -> Tensor:
        empty = torch.zeros_like(tokens[:1])
        empty[:, 0] = self.tokenizer.eos_token_id
        left_out = torch.rand(len(tokens), 1, generator=rng, device=self.device) < EMPTY_PROMPTS
        return torch.where(left_out, empty, tokens)

    def _text_length(self, step: int) -> int:
        lengths, shares = zip(*self.size.text_lengths.items(), strict=True)
        rng = generator_for(self.seed, Stream.TRANSFORMER_STEP, step)
        return lengths[int(torch.multinomial(torch.tensor(shares), 1, generator=rng))]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the captions after pad 0, end 1, unknown 2; texts end with the end token."""
    words = [*SPECIAL.values(), *vocabulary()]
    return word_tokenizer(words, "$A </s>", "<unk>", model_max_length=512, **SPECIAL)


def build_transformer(size: Size) -> WanTransformer3DModel:
    """A transformer that starts out predicting 0, with weak modulation and half-open gates."""
    channels = size.vae["z_dim"]
    transformer = WanTransformer3DModel(
        in_channels=channels, out_channels=channels, text_dim=size.text_encoder["d_model"], **size.transformer
    )
    with torch.no_grad():
        for param in (*transformer.proj_out.parameters(), transformer.condition_embedder.time_proj.bias):
            param.zero_()
        transformer.condition_embedder.time_proj.weight.mul_(0.1)
        transformer.scale_shift_table.mul_(0.1)
        for block in transformer.blocks:
            block.scale_shift_table.mul_(0.1)
            # rows 2 and 5 are the gates of self-attention and feed-forward
            block.scale_shift_table[:, [2, 5]] += 0.5
    return transformer


def build_text_encoder(size: Size) -> UMT5EncoderModel:
    """A T5 encoder with random weights."""
    return UMT5EncoderModel(UMT5Config(**size.text_encoder))


def encode_text(text_encoder: UMT5EncoderModel, tokens: Tensor, length: int) -> Tensor:
    """Text states [B, length, D] as WanPipeline makes them: zero after the last token, never masked."""
    mask = tokens != 0
    states = text_encoder(tokens, mask).last_hidden_state * mask[..., None]
    return F.pad(states, (0, 0, 0, length - tokens.shape[1]))


def sample_sigma(count: int, shift: float, rng: torch.Generator) -> Tensor:
    """Noise levels in (0, 1), [count]: half uniform, half logit-normal, then shifted towards noise."""
    device = rng.device
    uniform = torch.rand(count, generator=rng, device=device)
    normal = torch.sigmoid(torch.randn(count, generator=rng, device=device))
    sigma = torch.where(torch.rand(count, generator=rng, device=device) < 0.5, uniform, normal)
    return shift * sigma / (1 + (shift - 1) * sigma)
