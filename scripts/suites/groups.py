"""The files of diffusers' and transformers' tests that run models we support, in groups of a few minutes."""

from __future__ import annotations

VIDEO_MODELS = (
    "wan wan_vace wan_animate chronoedit skyreels_v2 hunyuan_video hunyuan_1_5 hunyuan_video_framepack ltx "
    "ltx2 cogvideox consisid mochi cosmos cosmos3 allegro easyanimate motif_video helios minimax_h3 anyflow"
)
IMAGE_MODELS = (
    "flux flux2 qwenimage sd3 z_image longcat_image ovis_image bria ernie_image cogview4 glm_image krea2"
)
PIPELINES = (
    "wan",
    "chronoedit skyreels_v2 cosmos allegro easyanimate",
    "motif_video helios flux2",
    "flux visualcloze qwenimage z_image stable_diffusion_3",
    "hunyuan_video hunyuan_video1_5 ltx ltx2",
    "cogvideo consisid mochi kandinsky5",
    "longcat_image ovis_image bria hunyuan_image_21 cogview4 glm_image krea2",
    "anyflow pixart_alpha pixart_sigma cogview3",
)
LORA = (
    "wan wanvace hunyuanvideo ltx_video ltx2 cogvideox mochi helios minimax_h3 flux flux2 qwenimage sd3 "
    "z_image cogview4 krea2"
)
CAUSAL = (
    "llama mistral qwen2 qwen3",
    "gemma gemma2 phi phi3 olmo2 cohere2",
    "mixtral qwen3_moe gpt_oss deepseek_v3 smollm3",
    "gpt2 gpt_neox opt starcoder2 stablelm granite",
    "deepseek_v32 glm_moe_dsa modernbert_decoder gemma3 falcon",
)


def each(pattern: str, names: str) -> tuple[str, ...]:
    """The pattern with each of the names in it."""
    return tuple(pattern.format(name) for name in names.split())


CAUSAL_FILE = "tests/models/{0}/test_modeling_{0}.py"
MODEL_FILE = "tests/models/transformers/test_models_transformer_{}.py"

# Library, then group: what pytest is given.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "diffusers": {
        "models, video": each(MODEL_FILE, VIDEO_MODELS),
        "models, image": each(MODEL_FILE, IMAGE_MODELS),
        **{f"pipelines, {names.split()[0]}": each("tests/pipelines/{}", names) for names in PIPELINES},
        "LoRA": each("tests/lora/test_lora_layers_{}.py", LORA),
        "hooks": ("tests/hooks",),
    },
    "transformers": {
        "generation": ("tests/generation",),
        **{f"causal, {names.split()[0]}": each(CAUSAL_FILE, names) for names in CAUSAL},
    },
}
