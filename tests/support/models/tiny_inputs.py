"""Forward arguments for a tiny instance of every family: (batch, frames, rows, columns) in tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache
from torch import Tensor

HEADS, DIM = 2, 16
TEXT = 21
VALID = 13


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def timestep(batch: int, level: float = 500.0) -> Tensor:
    return torch.full((batch,), level)


def text_mask(batch: int, valid: int = VALID) -> Tensor:
    """[B, T]: all of the text of sample 0 where there are two, `valid` tokens of the last."""
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[-1, valid:] = False
    return mask


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


def framepack(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    """History of two clean frames, two at half resolution and three at a quarter; sides need not divide."""
    return {
        **hunyuan_video(b, f, h, w),
        "image_embeds": noise(b, 3, 8),
        "indices_latents": torch.arange(7, 7 + f),
        "latents_clean": noise(b, 4, 2, 2 * h, 2 * w),
        "indices_latents_clean": torch.arange(5, 7),
        "latents_history_2x": noise(b, 4, 2, 2 * h, 2 * w),
        "indices_latents_history_2x": torch.arange(3, 5),
        "latents_history_4x": noise(b, 4, 3, 2 * h, 2 * w),
        "indices_latents_history_4x": torch.arange(0, 3),
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


def wan(b: int, f: int, h: int, w: int, image: bool = False, control: bool = False) -> dict[str, Any]:
    arguments = {
        "hidden_states": noise(b, 4, f, 2 * h, 2 * w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, 512 if image else TEXT, 16),
    }
    if image:
        arguments["encoder_hidden_states_image"] = noise(b, 6, 16)
    if control:
        arguments["control_hidden_states"] = noise(b, 6, f, 2 * h, 2 * w)
    return arguments


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


def cosmos3(b: int, f: int, h: int, w: int, sound: int = 0) -> dict[str, Any]:
    """One sample, whatever the batch: the model knows no other."""
    video, first = f * h * w, TEXT + f * h * w
    total = first + sound
    arguments = {
        "input_ids": torch.arange(TEXT),
        "text_indexes": torch.arange(TEXT),
        "position_ids": torch.arange(total).expand(3, -1),
        "und_len": TEXT,
        "sequence_length": total,
        "vision_tokens": [noise(1, 4, f, 2 * h, 2 * w)],
        "vision_token_shapes": [(f, h, w)],
        "vision_sequence_indexes": torch.arange(TEXT, first),
        "vision_mse_loss_indexes": torch.arange(TEXT, first),
        "vision_timesteps": timestep(video),
        "vision_noisy_frame_indexes": [torch.arange(f)],
    }
    if not sound:
        return arguments
    return arguments | {
        "sound_tokens": [noise(4, sound)],
        "sound_token_shapes": [(sound, 1, 1)],
        "sound_sequence_indexes": torch.arange(first, total),
        "sound_mse_loss_indexes": torch.arange(first, total),
        "sound_timesteps": timestep(sound),
        "sound_noisy_frame_indexes": [torch.arange(sound)],
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


def unet(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "sample": noise(b, 4, h, w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": 500,
    }


def unet_xl(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    added = {"text_embeds": noise(b, 8), "time_ids": noise(b, 6)}
    return {**unet(b, f, h, w), "added_cond_kwargs": added}


def z_image(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "x": list(noise(b, 4, 1, 2 * h, 2 * w)),
        "t": timestep(b, 0.5),
        "cap_feats": [noise(40, 16), noise(TEXT, 16)][:b],
    }


def bria(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    arguments = flux(b, f, h, w)
    del arguments["pooled_projections"]
    return {**arguments, "timestep": timestep(b)}


def longcat_image(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {**bria(b, f, h, w), "timestep": timestep(b, 0.5)}


def hunyuan_image(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, h, w),
        "timestep": timestep(b),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "encoder_attention_mask": text_mask(b),
    }


def hunyuan_image_refiner(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {**hunyuan_image(b, f, h, w), "hidden_states": noise(b, 4, f, h, w)}


def ernie_image(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, h, w),
        "timestep": timestep(b),
        "text_bth": noise(b, TEXT, 16),
        "text_lens": text_mask(b).sum(dim=1),
    }


def flux3(b: int, f: int, h: int, w: int, conditions: int = 0) -> dict[str, Any]:
    arguments = {
        "hidden_states": noise(b, h * w, 4),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b, 0.5),
        "img_ids": positions(h, w, 4),
        "txt_ids": torch.zeros(TEXT, 4),
    }
    if conditions:
        arguments["image_cond_hidden_states"] = noise(b, conditions, 4)
        arguments["image_cond_ids"] = torch.ones(conditions, 4)
    return arguments


def cogview4(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    size = torch.tensor([[8.0 * h, 8.0 * w]] * b)
    return {
        "hidden_states": noise(b, 4, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b),
        "original_size": size,
        "target_size": size,
        "crop_coords": torch.zeros(b, 2),
    }


def glm_image(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    arguments = cogview4(b, f, h, w)
    del arguments["original_size"]
    tokens = torch.arange(b * h * w).reshape(b, h * w) % 8
    return {
        **arguments,
        "prior_token_id": tokens,
        "prior_token_drop": torch.zeros_like(tokens, dtype=torch.bool),
    }


def minimax_h3(b: int, f: int, h: int, w: int, references: int = 0) -> dict[str, Any]:
    """One sample: text, a keyframe or none, sound of two channels, then the video on a clock of its own."""
    sound, size = 2 * 5, f * h * w
    start = TEXT + references + sound
    grid = torch.cartesian_prod(torch.arange(f) * 6.0 + TEXT, torch.arange(h) - 1.5, torch.arange(w) - 2.5)
    positions = torch.zeros(start + size, 3)
    positions[:TEXT, 0] = torch.arange(TEXT)
    positions[start:] = grid.reshape(-1, 3)
    tags = torch.tensor([1] * TEXT + [0] * references + [2] * sound + [0] * size)
    return {
        "hidden_states": noise(1, references + size, 16),
        "audio_hidden_states": noise(1, sound, 4),
        "encoder_hidden_states": noise(1, TEXT, 16),
        "timestep": torch.tensor([0.0, 0.5]),
        "timestep_indices": (tags != 1).long(),
        "token_tags": tags,
        "position_ids": positions,
        "video_indices": (tags == 0).nonzero().flatten(),
        "audio_indices": (tags == 2).nonzero().flatten(),
        "text_indices": torch.arange(TEXT),
    }


def minimax_h3_reference(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    """With a reference video of 4 frames of 5 x 6 tokens between text and sound."""
    arguments = minimax_h3(b, f, h, w, references=120)
    frames = torch.cartesian_prod(torch.arange(4) * 6.0 + TEXT, torch.arange(5) - 1.0, torch.arange(6) - 2.0)
    arguments["position_ids"][TEXT : TEXT + 120] = frames
    return arguments


def qwen_image_padded(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {**qwen_image(b, f, h, w), "encoder_hidden_states_mask": text_mask(b)}


def qwen_image_edit(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    """With a reference image of 5 x 7 tokens after the image."""
    return {
        **qwen_image_padded(b, f, h, w),
        "hidden_states": noise(b, h * w + 35, 16),
        "img_shapes": [[(1, h, w), (1, 5, 7)]] * b,
    }


def qwen_image21(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    """A prompt that speaks of an image of 4 x 6 tokens, which takes 6 of its places."""
    words, image = torch.zeros(b, TEXT - 6, dtype=torch.bool), torch.ones(b, 6 + h * w // 4, dtype=torch.bool)
    return {
        "hidden_states": noise(b, 24 + h * w, 4),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b, 0.5),
        "img_shapes": [[(1, 4, 6), (1, h, w)]] * b,
        "img_mask": torch.cat([words[:, :4], image[:, :6], words[:, 4:], image[:, 6:]], dim=1),
    }


def krea2(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, h * w, 4),
        "encoder_hidden_states": noise(b, TEXT, 3, 16),
        "timestep": timestep(b, 0.5),
        "position_ids": torch.cat([torch.zeros(TEXT, 3), positions(h, w, 3)]),
        "encoder_attention_mask": text_mask(b),
    }


def lumina2(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "encoder_attention_mask": torch.ones(b, TEXT, dtype=torch.int64),
        "timestep": timestep(b, 0.5),
    }


def lumina2_padded(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {**lumina2(b, f, h, w), "encoder_attention_mask": text_mask(b)}


def nucleus_moe(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, h * w, 16),
        "img_shapes": [(1, h, w)] * b,
        "encoder_hidden_states": noise(b, TEXT, 16),
        "encoder_hidden_states_mask": text_mask(b),
        "timestep": timestep(b, 0.5),
    }


def prx(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "attention_mask": text_mask(b),
        "timestep": timestep(b, 0.5),
    }


def pixart(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(b, 4, 2 * h, 2 * w),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "timestep": timestep(b),
    }


def bria_fibo2(b: int, f: int, h: int, w: int, conditions: tuple[int, int] | None = None) -> dict[str, Any]:
    arguments = {
        "hidden_states": noise(b, 4, 2 * h, 2 * w),
        "timestep": timestep(b, 0.5),
        "encoder_hidden_states": noise(b, 2, TEXT, 16),
    }
    if conditions:
        arguments["context_latents"] = [noise(b, 4, 2 * conditions[0], 2 * conditions[1])]
    return arguments


def bria_fibo2_padded(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    return {**bria_fibo2(b, f, h, w), "encoder_attention_mask": text_mask(b)}


def anyflow(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    level = timestep(b)[:, None].expand(b, f)
    return {
        "hidden_states": noise(b, f, 4, 2 * h, 2 * w),
        "timestep": level,
        "r_timestep": level,
        "encoder_hidden_states": noise(b, TEXT, 16),
    }


def anyflow_far(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    """The step of a chunk of all frames but one, after a coarse frame and a fine one."""
    cached = {"full_cache": h * w, "compressed_cache": (h // 2) * (w // 2)}
    return anyflow_far_whole(b, f - 1, h, w) | {
        "chunk_partition": [1, 1, f - 1],
        "kv_cache": [
            {name: noise(2, b, HEADS, tokens, DIM) for name, tokens in cached.items()} for _ in range(3)
        ],
        "kv_cache_flag": {"num_cached_chunks": 2, "is_cache_step": False},
    }


def anyflow_far_whole(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    """All chunks at once, without a cache: one frame, then the others."""
    return anyflow(b, f, h, w) | {"chunk_partition": [1, f - 1]}


def wan_animate2(b: int, f: int, h: int, w: int) -> dict[str, Any]:
    """A step of a segment, one frame more than the references in its cache."""
    cache = WanAnimate2KVCache(3)
    for layer in cache.layer_caches:
        layer.store(*noise(2, b, (f - 1) * h * w, HEADS, DIM))
    return {
        "hidden_states": list(noise(b, 4, f, 2 * h, 2 * w)),
        "condition_latents": list(noise(b, 8, f, 2 * h, 2 * w)),
        "timestep": timestep(b),
        "encoder_hidden_states": list(noise(b, TEXT, 16)),
        "kv_cache": cache,
        "kv_cache_mode": "cached",
        "seq_len": f * h * w,
        "reference_grid_sizes": torch.tensor([[f - 1, h, w]]).expand(b, 3),
        "origin_len": 4 * (f - 2) + 1,
        "origin_area": [16 * h, 16 * w],
    }


def kandinsky6(b: int, f: int, h: int, w: int, clean: int = 0) -> dict[str, Any]:
    arguments = {
        "hidden_states": noise(b, f + clean, 2 * h, 2 * w, 9),
        "encoder_hidden_states": noise(b, TEXT, 16),
        "pooled_projections": noise(b, 8),
        "timestep": timestep(b),
        "audio_hidden_states": noise(b, 13, 4),
    }
    if clean:
        arguments["visual_token_type_ids"] = (torch.arange(f + clean) >= f).long().expand(b, -1)
        times = torch.cat([torch.arange(f), torch.zeros(clean, dtype=torch.long)])
        arguments["visual_rope_pos"] = (times, torch.arange(h), torch.arange(w))
    return arguments
