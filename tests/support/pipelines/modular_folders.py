"""Tiny modular pipelines as folders: every part real, random and saved, from the prompt to the pixels."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import MiniMaxH3Scheduler

from tiny_families import CASES

LATENT_CHANNELS = 24
WIDTH = 8
SPECIAL = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
CHAT = "user:{% for m in messages %}{{ m['content'] }}{% endfor %}"
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": WIDTH,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
}
VISION = {
    "depth": 1,
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_heads": 1,
    "out_hidden_size": WIDTH,
    "deepstack_visual_indexes": [],
    "num_position_embeddings": 16,
}


def text_parts(layers: int) -> tuple[Any, Any, Any]:
    """A Qwen3-VL text encoder, its tokenizer, and a processor that needs no torchvision."""
    letters = [*string.printable[:94], "Ġ", "Ċ", "<|endoftext|>"]
    tokenizer = transformers.Qwen2TokenizerFast(
        vocab={letter: number for number, letter in enumerate(dict.fromkeys(letters))}, merges=[]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    images = transformers.Qwen2VLImageProcessor()
    processor = transformers.LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, image_token="<|image_pad|>", chat_template=CHAT
    )
    start, image, _, video = tokenizer.convert_tokens_to_ids(SPECIAL)
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "num_hidden_layers": layers},
        vision_config=VISION,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
    )
    return transformers.Qwen3VLForConditionalGeneration(config).eval(), tokenizer, processor


def minimax_h3(folder: Path) -> Path:
    """MiniMax-H3, from text or key frames to video and sound; the transformer for references is left out."""
    torch.manual_seed(0)
    encoder, tokenizer, processor = text_parts(51)
    vae = diffusers.AutoencoderKLMiniMaxH3(
        block_out_channels=(8,) * 6,
        layers_per_block=1,
        norm_num_groups=4,
        decoder_num_layers=1,
        decoder_num_attention_heads=1,
        decoder_attention_head_dim=16,
        decoder_ffn_mult=1,
    )
    sound = diffusers.AutoencoderKLMiniMaxH3Audio(
        encoder_dim=4,
        latent_dim=32,
        num_attention_heads=1,
        decoder_dim=128,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
        latents_mean=[0.0] * 32,
        latents_std=[1.0] * 32,
    )
    model = CASES["minimax-h3"].model(
        in_channels=LATENT_CHANNELS, audio_in_channels=sound.config.latent_channels, text_dim=WIDTH
    )
    return _saved(
        diffusers.MiniMaxH3ModularPipeline(),
        folder,
        transformer=model,
        vae=vae.eval(),
        audio_vae=sound.eval(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=processor,
        scheduler=MiniMaxH3Scheduler(),
        audio_scheduler=MiniMaxH3Scheduler(),
    )


def flux3(folder: Path) -> Path:
    """FLUX.3, from text or reference images to an image; without its model that rewrites prompts."""
    torch.manual_seed(0)
    encoder, _, processor = text_parts(33)
    vae = diffusers.AutoencoderKLFlux2(block_out_channels=[8] * 4, norm_num_groups=4, layers_per_block=1)
    model = CASES["flux3"].model(
        in_channels=4 * vae.config.latent_channels,
        cond_in_channels=4 * vae.config.latent_channels,
        joint_attention_dim=8 * WIDTH,
    )
    return _saved(
        diffusers.Flux3ModularPipeline(),
        folder,
        transformer=model,
        vae=vae.eval(),
        text_encoder=encoder,
        tokenizer=processor,
    )


def _saved(pipe: Any, folder: Path, **parts: Any) -> Path:
    pipe.update_components(**parts)
    pipe.save_pretrained(str(folder), overwrite_modular_index=True)
    return folder
