"""The files of diffusers' and transformers' tests that run models we support, in groups of a few minutes."""

from __future__ import annotations

# Compiling takes most of a file's time, training is dense by our rule: `-k ""` runs these too.
LEFT_OUT = {"diffusers": "", "transformers": "not compil and not overfit and not bc_torch_dtype"}

VIDEO_MODELS = (
    "wan hunyuan_video ltx cogvideox hunyuan_1_5 skyreels_v2 cosmos allegro easyanimate motif_video helios "
    "chronoedit wan_vace wan_animate hunyuan_video_framepack ltx2 consisid mochi cosmos3 minimax_h3 anyflow "
    "anyflow_far wan_animate_2 kandinsky6"
)
IMAGE_MODELS = (
    "flux flux2 qwenimage sd3 z_image longcat_image ovis_image bria ernie_image cogview4 glm_image krea2 "
    "cogview3plus lumina2 nucleusmoe_image prx qwenimage21 bria_fibo2"
)
# A group: its folders in tests/pipelines.
PIPELINES = {
    "Wan": "wan",
    "Flux": "flux",
    "FLUX.2": "flux2",
    "HunyuanVideo": "hunyuan_video hunyuan_video1_5",
    "LTX": "ltx ltx2",
    "Qwen-Image": "qwenimage",
    "CogVideoX, ConsisID": "cogvideo consisid",
    "Stable Diffusion 3": "stable_diffusion_3",
    "SkyReels-V2": "skyreels_v2",
    "Cosmos": "cosmos",
    "Allegro, EasyAnimate": "allegro easyanimate",
    "Motif-Video, Helios, ChronoEdit": "motif_video helios chronoedit",
    "Z-Image, Krea 2": "z_image krea2",
    "Mochi, Kandinsky 5": "mochi kandinsky5",
    "LongCat-, Ovis-, HunyuanImage, Bria": "longcat_image ovis_image hunyuan_image_21 bria",
    "CogView 3 and 4, GLM-Image": "cogview3 cogview4 glm_image",
    "Lumina 2, Nucleus-Image, PRX": "lumina2 nucleusmoe_image prx",
    "AnyFlow, PixArt, VisualCloze": "anyflow pixart_alpha pixart_sigma visualcloze",
}
LORA = (
    "wan flux flux2 hunyuanvideo ltx_video qwenimage cogvideox sd3 helios wanvace ltx2 mochi minimax_h3 "
    "z_image cogview4 krea2"
)
CAUSAL = (
    "llama qwen2 qwen3 mistral gemma2 gemma3 phi3",
    "gpt_oss qwen3_moe mixtral deepseek_v3 smollm3 olmo2 cohere2",
    "gemma phi gpt2 gpt_neox opt starcoder2 stablelm granite falcon",
    "deepseek_v32 glm_moe_dsa modernbert_decoder qwen3_next qwen3_5 lfm2 glm4 ernie4_5 exaone4",
)


def each(pattern: str, names: str) -> tuple[str, ...]:
    """The pattern with each of the names in it."""
    return tuple(pattern.format(name) for name in names.split())


CAUSAL_FILE = "tests/models/{0}/test_modeling_{0}.py"
MODEL_FILE = "tests/models/transformers/test_models_transformer_{}.py"

# Library, then group: what pytest is given, in the order of what most people run.
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "diffusers": {
        "models, video": each(MODEL_FILE, VIDEO_MODELS),
        "models, image": (
            *each(MODEL_FILE, IMAGE_MODELS),
            "tests/models/transformers/test_models_pixart_transformer2d.py",
        ),
        **{f"pipelines, {name}": each("tests/pipelines/{}", folders) for name, folders in PIPELINES.items()},
        "LoRA": each("tests/lora/test_lora_layers_{}.py", LORA),
        "hooks": ("tests/hooks",),
    },
    "transformers": {
        **{f"causal, {names.split()[0]} ...": each(CAUSAL_FILE, names) for names in CAUSAL},
        "generation": ("tests/generation",),
    },
}
