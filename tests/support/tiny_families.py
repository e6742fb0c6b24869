"""Tiny random instances of every supported class beyond Wan's, their inputs, and what those are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro
from torch import Tensor

from accel.patches.grid import TokenGrid

HEADS, DIM = 2, 16
TEXT = 21
VALID = 13
SMALL = {"num_attention_heads": HEADS, "attention_head_dim": DIM}
ROPE = (4, 6, 6)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def timestep(batch: int, level: float = 500.0) -> Tensor:
    return torch.full((batch,), level)


def text_mask(batch: int, valid: int = VALID) -> Tensor:
    """[B, T]: all of the text of sample 0 where there are two, `valid` tokens of the last."""
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[-1, valid:] = False
    return mask


@dataclass(frozen=True)
class Case:
    """A model class under test.

    Args:
        config: of its constructor.
        inputs: (batch, frames, height, width) in tokens -> the arguments of a forward.
        text: tokens of text, image embeddings or history in the sequence; or that, of the video's tokens.
        text_first: text before the video.
        sites: how many attention modules must be found.
        graphs: compiled graphs over all blocks, as many as the stock model takes: one for each class of block
            and layout of its inputs; none where the stock model cannot be compiled in full graphs.
        pads: name of the argument that holds the padded text, where padding is attended to by nobody.
        image: one frame only.
        calls: attention calls of a site in one forward of a batch of two.
    """

    class_name: str
    config: dict[str, Any]
    inputs: Callable[[int, int, int, int], dict[str, Any]]
    text: int | Callable[[int], int] = 0
    text_first: bool = False
    sites: int = 3
    graphs: int | None = 1
    pads: str | None = None
    image: bool = False
    calls: int = 1

    def model(self) -> Any:
        torch.manual_seed(0)
        model = getattr(diffusers, self.class_name)(**self.config).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            # Random models attend almost uniformly: sharpen, so that dropped blocks show in the output.
            if "norm" in name and name.endswith(
                ("_q.weight", "_k.weight", "query_norm.weight", "key_norm.weight")
            ):
                parameter.mul_(2.5)
            # Gates that start at zero would hide attention altogether.
            if not parameter.any():
                parameter.normal_(std=0.2)
        return model

    def arguments(self, size: tuple[int, int, int], batch: int = 1) -> dict[str, Any]:
        """Forward arguments for a video of that many frames, rows and columns of tokens."""
        return {**self.inputs(batch, *size), "return_dict": False}

    def grid(self, size: tuple[int, int, int]) -> TokenGrid:
        text = self.text(math.prod(size)) if callable(self.text) else self.text
        return TokenGrid(*size, text_tokens=text, text_first=self.text_first)


def output(model: Any, arguments: dict[str, Any]) -> Tensor:
    """The video, or the images of a list as one tensor."""
    result = model(**arguments)
    result = result[0] if isinstance(result, tuple | list) else result
    return torch.stack(result) if isinstance(result, list) else result


def hunyuan_video(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "encoder_attention_mask": text_mask(b),
        "pooled_projections": noise(b, 8),
        "guidance": timestep(b, 6000.0),
    }


def hunyuan_video15(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, f, h, w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "encoder_attention_mask": text_mask(b),
        "encoder_hidden_states_2": noise(b, 5, 8),
        "encoder_attention_mask_2": torch.ones(b, 5, dtype=torch.bool),
        "image_embeds": noise(b, 3, 8),
    }


def ltx(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, f * h * w, 4),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b),
        "encoder_attention_mask": text_mask(b),
        "num_frames": f,
        "height": h,
        "width": w,
    }


def ltx2(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        **ltx(b, f, h, w),
        "audio_hidden_states": noise(b, 9, 4),
        "audio_encoder_hidden_states": noise(b, TEXT, 16),
        "audio_encoder_attention_mask": text_mask(b),
        "audio_num_frames": 9,
        "sigma": timestep(b),
    }


def wan_animate(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 12, f, 2 * h, 2 * w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "encoder_hidden_states_image": noise(b, 5, 16),
        "pose_hidden_states": noise(b, 4, f - 1, 2 * h, 2 * w),
        "face_pixel_values": noise(b, 3, 4 * (f - 2) + 1, 16, 16),
    }


def kandinsky5(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, f, 2 * h, 2 * w, 4),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b),
        "pooled_projections": noise(b, 8),
        "visual_rope_pos": [torch.arange(f), torch.arange(h), torch.arange(w)],
        "text_rope_pos": torch.arange(TEXT),
    }


def cogvideox(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, f, 4, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b),
        "image_rotary_emb": (noise(f * h * w, DIM), noise(f * h * w, DIM)),
    }


def cogvideox15(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {**cogvideox(b, f, h, w), "hidden_states": noise(b, 2 * f, 4, 2 * h, 2 * w)}


def mochi(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b),
        "encoder_attention_mask": text_mask(b),
    }


def cosmos(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "fps": 16,
    }


def allegro(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    rotary = get_3d_rotary_pos_embed_allegro(DIM * 3 // 2, ((0, 0), (h, w)), (h, w), f)
    grid = torch.cartesian_prod(*(axis.long() for axis in rotary[3:])).T.reshape(3, 1, -1)
    return {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b),
        "image_rotary_emb": (rotary[:3], tuple(grid)),
    }


def easyanimate(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
    }


def motif(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "encoder_attention_mask": text_mask(b),
    }


def helios(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    def frames(first: int, count: int) -> Tensor:
        return torch.arange(first, first + count).expand(b, -1)

    return {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "indices_hidden_states": frames(6, f),
    }


def helios_with_history(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    def frames(first: int, count: int) -> Tensor:
        return torch.arange(first, first + count).expand(b, -1)

    return {
        **helios(b, f, h, w),
        "indices_latents_history_short": frames(6, 1),
        "indices_latents_history_mid": frames(4, 2),
        "indices_latents_history_long": frames(0, 4),
        "latents_history_short": noise(b, 4, 1, 8, 8),
        "latents_history_mid": noise(b, 4, 2, 8, 8),
        "latents_history_long": noise(b, 4, 4, 8, 8),
    }


def positions(h: int, w: int, columns: int) -> Tensor:
    ids = torch.zeros(h, w, columns)
    ids[..., 1] += torch.arange(h)[:, None]
    ids[..., 2] += torch.arange(w)
    return ids.flatten(0, 1)


def flux(b: int, f: int, h: int, w: int, columns: int = 3) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, h * w, 4),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "pooled_projections": noise(b, 8),
        "timestep": timestep(b, 0.5),
        "img_ids": positions(h, w, columns),
        "txt_ids": torch.zeros(TEXT, columns),
    }


def flux2(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    arguments = flux(b, f, h, w, columns=4)
    del arguments["pooled_projections"]
    return {**arguments, "guidance": timestep(b, 4.0)}


def qwen_image(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, h * w, 16),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b, 0.5),
        "img_shapes": [[(1, h, w)]] * b,
    }


def sd3(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "pooled_projections": noise(b, 8),
        "timestep": timestep(b),
    }


def z_image(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "x": list(noise(b, 4, 1, 2 * h, 2 * w)),
        "t": timestep(b, 0.5),
        "cap_feats": [noise(40, 16), noise(TEXT, 16)][:b],
    }


COGVIDEOX = {**SMALL, "in_channels": 4, "out_channels": 4, "time_embed_dim": 8, "text_embed_dim": 16}
COGVIDEOX |= {"num_layers": 3, "max_text_seq_length": TEXT, "use_rotary_positional_embeddings": True}
HUNYUAN = {**SMALL, "in_channels": 4, "out_channels": 4, "num_refiner_layers": 1, "rope_axes_dim": ROPE}
LTX = {**SMALL, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 32, "num_layers": 3}
WAN = {**SMALL, "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "num_layers": 3}

CASES: dict[str, Case] = {
    "hunyuan-video": Case(
        "HunyuanVideoTransformer3DModel",
        {
            **HUNYUAN,
            "num_layers": 2,
            "num_single_layers": 2,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
        },
        hunyuan_video,
        text=TEXT,
        sites=4,
        graphs=3,
        pads="encoder_hidden_states",
    ),
    "hunyuan-video-i2v": Case(
        "HunyuanVideoTransformer3DModel",
        {
            **HUNYUAN,
            "num_layers": 2,
            "num_single_layers": 2,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
            "image_condition_type": "token_replace",
        },
        hunyuan_video,
        text=TEXT,
        sites=4,
        graphs=4,
        pads="encoder_hidden_states",
    ),
    "hunyuan-video-1.5": Case(
        "HunyuanVideo15Transformer3DModel",
        {**HUNYUAN, "num_layers": 3, "text_embed_dim": 16, "text_embed_2_dim": 8, "image_embed_dim": 8},
        hunyuan_video15,
        text=TEXT + 5 + 3,
        pads="encoder_hidden_states",
    ),
    "ltx": Case("LTXVideoTransformer3DModel", {**LTX, "caption_channels": 16}, ltx),
    "ltx2": Case(
        "LTX2VideoTransformer3DModel",
        {
            **LTX,
            "caption_channels": 16,
            "audio_in_channels": 4,
            "audio_out_channels": 4,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 16,
        },
        ltx2,
    ),
    "ltx2-perturbed": Case(
        "LTX2VideoTransformer3DModel",
        {
            **LTX,
            "caption_channels": 16,
            "audio_in_channels": 4,
            "audio_out_channels": 4,
            "audio_num_attention_heads": 2,
            "audio_attention_head_dim": 8,
            "audio_cross_attention_dim": 16,
            "perturbed_attn": True,
            "gated_attn": True,
        },
        ltx2,
    ),
    "wan-animate": Case(
        "WanAnimateTransformer3DModel",
        {
            **WAN,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 16,
            "rope_max_seq_len": 64,
            "motion_encoder_channel_sizes": {"4": 4, "8": 4, "16": 4},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 8,
            "face_encoder_hidden_dim": 16,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 3,
        },
        wan_animate,
    ),
    "kandinsky5": Case(
        "Kandinsky5Transformer3DModel",
        {
            "in_visual_dim": 4,
            "out_visual_dim": 4,
            "in_text_dim": 16,
            "in_text_dim2": 8,
            "time_dim": 16,
            "model_dim": HEADS * DIM,
            "ff_dim": 32,
            "num_text_blocks": 1,
            "num_visual_blocks": 3,
            "axes_dims": ROPE,
        },
        kandinsky5,
    ),
    "cogvideox": Case(
        "CogVideoXTransformer3DModel", COGVIDEOX, cogvideox, text=TEXT, text_first=True, graphs=2
    ),
    "cogvideox-1.5": Case(
        "CogVideoXTransformer3DModel",
        {**COGVIDEOX, "patch_size_t": 2},
        cogvideox15,
        text=TEXT,
        text_first=True,
        graphs=2,
    ),
    "consisid": Case(
        "ConsisIDTransformer3DModel", COGVIDEOX, cogvideox, text=TEXT, text_first=True, graphs=2
    ),
    "mochi": Case(
        "MochiTransformer3DModel",
        {
            **SMALL,
            "num_layers": 3,
            "in_channels": 4,
            "pooled_projection_dim": 16,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "max_sequence_length": TEXT,
        },
        mochi,
        text=TEXT,
        graphs=None,
        pads="encoder_hidden_states",
        calls=2,
    ),
    "cosmos": Case(
        "CosmosTransformer3DModel",
        {
            **SMALL,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "mlp_ratio": 2,
            "text_embed_dim": 16,
            "adaln_lora_dim": 4,
            "max_size": (16, 32, 32),
            "concat_padding_mask": False,
        },
        cosmos,
    ),
    "allegro": Case(
        "AllegroTransformer3DModel",
        {
            "num_attention_heads": HEADS,
            "attention_head_dim": DIM * 3 // 2,
            "num_layers": 3,
            "cross_attention_dim": HEADS * DIM * 3 // 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 4,
            "caption_channels": 16,
        },
        allegro,
    ),
    "easyanimate": Case(
        "EasyAnimateTransformer3DModel",
        {
            **SMALL,
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "time_embed_dim": 8,
            "text_embed_dim": 16,
            "num_layers": 3,
            "mmdit_layers": 2,
        },
        easyanimate,
        text=TEXT,
        text_first=True,
        graphs=2,
    ),
    "motif": Case(
        "MotifVideoTransformer3DModel",
        {
            **SMALL,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "text_embed_dim": 16,
            "rope_axes_dim": ROPE,
        },
        motif,
        text=TEXT,
        sites=4,
        graphs=3,
        pads="encoder_hidden_states",
    ),
    "helios": Case(
        "HeliosTransformer3DModel", {**WAN, "in_channels": 4, "rope_dim": ROPE}, helios, text_first=True
    ),
    "helios-history": Case(
        "HeliosTransformer3DModel",
        {**WAN, "in_channels": 4, "rope_dim": ROPE, "is_amplify_history": True},
        helios_with_history,
        text=16 + 4 + 1,
        text_first=True,
    ),
    "flux": Case(
        "FluxTransformer2DModel",
        {
            **SMALL,
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 8,
            "axes_dims_rope": ROPE,
        },
        flux,
        text=TEXT,
        text_first=True,
        sites=4,
        graphs=3,
        image=True,
    ),
    "flux2": Case(
        "Flux2Transformer2DModel",
        {
            **SMALL,
            "in_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "joint_attention_dim": 16,
            "timestep_guidance_channels": 16,
            "axes_dims_rope": (4, 4, 4, 4),
        },
        flux2,
        text=TEXT,
        text_first=True,
        sites=4,
        graphs=2,
        image=True,
    ),
    "qwen-image": Case(
        "QwenImageTransformer2DModel",
        {
            **SMALL,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 3,
            "joint_attention_dim": 16,
            "axes_dims_rope": ROPE,
        },
        qwen_image,
        text=TEXT,
        text_first=True,
        image=True,
    ),
    "sd3": Case(
        "SD3Transformer2DModel",
        {
            **SMALL,
            "sample_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "joint_attention_dim": 16,
            "caption_projection_dim": HEADS * DIM,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 64,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
        sd3,
        text=TEXT,
        graphs=3,
        image=True,
    ),
    "z-image": Case(
        "ZImageTransformer2DModel",
        {
            "in_channels": 4,
            "dim": HEADS * DIM,
            "n_layers": 3,
            "n_refiner_layers": 1,
            "n_heads": HEADS,
            "n_kv_heads": HEADS,
            "cap_feat_dim": 16,
            "axes_dims": list(ROPE),
            "axes_lens": [128, 64, 64],
        },
        z_image,
        text=lambda tokens: -tokens % 32 + 64,
        image=True,
    ),
}
