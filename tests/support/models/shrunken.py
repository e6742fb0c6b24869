"""Every causal language model of the installed transformers, built tiny from its configuration."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# Whatever a configuration calls its sizes: those of these names that it has are set.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "intermediate_size", "ffn_dim", "d_ff"), 64),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "index_n_heads"), 2),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim"), 16),
    **dict.fromkeys(("v_head_dim", "index_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "index_topk"), 16),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "encoder_layers"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 512),
    **dict.fromkeys(("bos_token_id", "cls_token_id"), 1),
    **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
    "pad_token_id": 0,
    "vocab_size": 97,
    "qk_rope_head_dim": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 24,
}
LATENT = {"num_key_value_heads": 4}
# Two layers of a hybrid are linear both, as its configuration has it.
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
DECODER = {"is_decoder": True}
INDEXED = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "ngram_vocab_size_base": 100,
    "hc_lowrank": 16,
}
ALSO: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa"), LATENT
    ),
    **dict.fromkeys(("minicpm3", "sarvam_mla", "youtu"), LATENT),
    **dict.fromkeys(("granitemoehybrid", "qwen3_next"), HYBRID),
    **dict.fromkeys(("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), HYBRID),
    **dict.fromkeys(("qwen4_exp", "qwen4_exp_text"), HYBRID | INDEXED),
    **dict.fromkeys(("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie"), DECODER),
    **dict.fromkeys(("megatron-bert", "reformer", "rembert", "roberta", "roberta-prelayernorm"), DECODER),
    **dict.fromkeys(("roformer", "xlm-roberta", "xlm-roberta-xl"), DECODER),
    "bailing_hybrid": HYBRID | LATENT,
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 8},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_chunk_size": 16,
    },
    "gptj": {"rotary_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": HYBRID | LATENT | {"linear_head_dim": 16, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "dots1": {"n_shared_experts": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "minimax_m3_vl_text": {"index_block_size": 16, "index_topk_blocks": 2, "index_local_blocks": 1},
    "longcat_flash": LATENT | {"num_layers": 1, "head_dim": 8, "expert_ffn_hidden_size": 16},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4},
    "zamba2": {  # Two layers that share an attention module.
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "num_hidden_layers": 4,
        "n_mamba_heads": 4,
        "mamba_headdim": 32,
    },
    "zaya": {"num_experts_per_tok": 1},
}
NAMES: dict[str, str] = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MOST_PARAMETERS = 3_000_000


class TooLarge(Exception):
    """A model that these settings do not make small."""


def small_model(model_type: str) -> Any:
    """The causal model of a type, random and in evaluation mode.

    Raises:
        Exception: whatever stands against building it.
    """
    cls, config = getattr(transformers, NAMES[model_type]), small_config(model_type)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in cls(config).parameters())
    if size > MOST_PARAMETERS:
        raise TooLarge(f"{size:,} parameters")
    torch.manual_seed(0)
    return cls(small_config(model_type)).eval().requires_grad_(False)


def small_config(model_type: str) -> Any:
    """The configuration of the causal model of a type, with whatever sizes it has made small."""
    cls = getattr(transformers, CONFIG_MAPPING_NAMES[model_type])
    wanted = getattr(transformers, NAMES[model_type]).config_class
    if wanted is not cls:
        return wanted(**sizes(wanted, model_type))
    default = cls()
    parts = {key: getattr(default, key, None) for key in cls.sub_configs}
    small = {key: sizes(type(part), model_type) for key, part in parts.items() if part is not None}
    return cls(**{**sizes(cls, model_type), **small})


def sizes(cls: Any, model_type: str) -> dict[str, Any]:
    known = {*inspect.signature(cls.__init__).parameters, *getattr(cls, "__dataclass_fields__", {})}
    known |= set(getattr(cls, "attribute_map", {}))
    changes = {**SMALL, **ALSO.get(model_type, {})}
    return {name: value for name, value in changes.items() if name in known}
