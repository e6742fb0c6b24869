"""Tiny random language models of the real classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

VOCABULARY = 97
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 1, "moe_intermediate_size": 16}


def llama(**changes: Any) -> LlamaForCausalLM:
    return _seeded(LlamaForCausalLM, LlamaConfig(**{**SMALL, **changes}))


def qwen2(**changes: Any) -> Qwen2ForCausalLM:
    return _seeded(Qwen2ForCausalLM, Qwen2Config(**{**SMALL, **changes}))


def qwen3(**changes: Any) -> Qwen3ForCausalLM:
    return _seeded(Qwen3ForCausalLM, Qwen3Config(**{**SMALL, **changes}))


def mistral(**changes: Any) -> MistralForCausalLM:
    return _seeded(MistralForCausalLM, MistralConfig(**{**SMALL, "sliding_window": None, **changes}))


def phi3(**changes: Any) -> Phi3ForCausalLM:
    return _seeded(Phi3ForCausalLM, Phi3Config(**{**SMALL, **changes}))


def gemma2(**changes: Any) -> Gemma2ForCausalLM:
    config = {**SMALL, "sliding_window": 40, "query_pre_attn_scalar": 16, **changes}
    return _seeded(Gemma2ForCausalLM, Gemma2Config(**config))


def gemma3(**changes: Any) -> Gemma3ForCausalLM:
    kinds = ["sliding_attention", "full_attention"]
    config = {**SMALL, "sliding_window": 40, "layer_types": kinds, "query_pre_attn_scalar": 64, **changes}
    return _seeded(Gemma3ForCausalLM, Gemma3TextConfig(**config))


def gpt_oss(**changes: Any) -> GptOssForCausalLM:
    config = {**SMALL, "sliding_window": 40, "num_local_experts": 2, "num_experts_per_tok": 1, **changes}
    return _seeded(GptOssForCausalLM, GptOssConfig(**config))


def qwen25_vl(**changes: Any) -> Qwen2_5_VLForConditionalGeneration:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64,
        "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {**SMALL, "rope_parameters": rope, **changes}
    tokens = {
        "image_token_id": 90,
        "video_token_id": 91,
        "vision_start_token_id": 92,
        "vision_end_token_id": 93,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    return _seeded(Qwen2_5_VLForConditionalGeneration, config)


def deepseek(**changes: Any) -> DeepseekV3ForCausalLM:
    """Latent attention: keys of 24 numbers a head, values of 16."""
    heads = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    }
    experts = {**EXPERTS, "n_routed_experts": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 2}
    config = {**SMALL, **heads, **experts, "num_key_value_heads": 4, **changes}
    config.pop("head_dim")
    return _seeded(DeepseekV3ForCausalLM, DeepseekV3Config(**config))


def qwen3_next(**changes: Any) -> Qwen3NextForCausalLM:
    """A hybrid: one layer of linear attention, one of full attention."""
    linear = {
        "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
    }  # fmt: skip
    experts = {**EXPERTS, "num_experts": 2, "shared_expert_intermediate_size": 16}
    return _seeded(Qwen3NextForCausalLM, Qwen3NextConfig(**{**SMALL, **linear, **experts, **changes}))


def whisper(**changes: Any) -> WhisperForConditionalGeneration:
    config = {
        "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 256,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }  # fmt: skip
    return _seeded(WhisperForConditionalGeneration, WhisperConfig(**{**config, **changes}))


def t5(**changes: Any) -> T5ForConditionalGeneration:
    config = {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
    }
    return _seeded(T5ForConditionalGeneration, T5Config(**{**config, "decoder_start_token_id": 0, **changes}))


def _seeded(cls: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = cls(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # Random models attend almost uniformly: sharpen, so that dropped blocks show in the output.
        if name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
            parameter.mul_(6)
        if name.endswith("sinks"):
            parameter.normal_()
    return model


def tokens(length: int, batch: int = 1, seed: int = 1) -> Tensor:
    """Random token ids, int64 [batch, length], without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 90, (batch, length), generator=generator)


LANGUAGE_MODELS = {
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mistral": mistral,
    "phi3": phi3,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gpt-oss": gpt_oss,
    "qwen2.5-vl": qwen25_vl,
}
