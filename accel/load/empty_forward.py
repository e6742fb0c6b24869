"""The inputs of a forward at a size, without data: what `inspect` shows a family to read the token grid from.

Text, history and reference images have no tokens here: how many there are is not known before a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from accel.patches.class_names import known_name
from accel.patches.diffusers.family import FAMILIES, family_of
from accel.patches.grid import TokenGrid

Size = tuple[int, int, int]
# Latents that the pipeline packs into patches of 2 x 2 before the model sees them.
PACKED = 2
CONDITIONS = (
    "encoder_hidden_states",
    "encoder_hidden_states_2",
    "encoder_hidden_states_t5",
    "image_embeds",
    "text_bth",
)


def empty_grid(model: Any, size: Size) -> TokenGrid:
    """The token grid of a model at a latent size, as its family reads it in a forward.

    Args:
        model: a supported diffusers model, on any device.
        size: frames, rows and columns of the latent.

    Raises:
        ValueError: if the model cuts the latent into no token at all.
    """
    family, name = family_of(model), known_name(model, FAMILIES)
    assert family is not None and name is not None
    made = LATENTS.get(FAMILIES[name].rpartition(".")[2])
    latent = {"hidden_states": _empty(1, 1, *size)} if made is None else made(model, size)
    nothing = {**dict.fromkeys(CONDITIONS, _empty(1, 0, 1)), "encoder_attention_mask": torch.zeros(1, 0)}
    return family.read_grid(model, (), {**nothing, **latent})


def is_image_model(class_name: str) -> bool:
    """Whether a model of this class makes single images."""
    return ".families.image." in FAMILIES.get(class_name, "")


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _told(model: Any, size: Size) -> dict[str, Any]:
    frames, height, width = size
    tokens = _empty(1, frames * height * width, 1)
    return {"hidden_states": tokens, "num_frames": frames, "height": height, "width": width}


def _token_shapes(model: Any, size: Size) -> dict[str, Any]:
    frames, height, width = size
    side = model.config.latent_patch_size
    shape = (frames, height // side, width // side)
    return {"vision_token_shapes": [shape], "und_len": 0, "sequence_length": shape[0] * shape[1] * shape[2]}


def _chunks(model: Any, size: Size) -> dict[str, Any]:
    known = tuple(model.config.chunk_partition)
    chunks = known if sum(known) == size[0] else size[:1]
    return {"hidden_states": _empty(1, size[0], 1, *size[1:]), "chunk_partition": chunks}


def _segment(model: Any, size: Size) -> dict[str, Any]:
    """A step after its cache: one generated frame more than references."""
    frames, height, width = size
    segment = {"origin_len": 4 * (frames - 2), "origin_area": (8 * height, 8 * width)}
    return {"hidden_states": [_empty(1, *size)], "kv_cache_mode": "cached", **segment}


def _positions(size: Size) -> Tensor:
    axes = [torch.arange(1), *(torch.arange(side // PACKED) for side in size[1:])]
    return torch.cartesian_prod(*axes)


def _rows(model: Any, size: Size) -> dict[str, Any]:
    sides = [side // patch for side, patch in zip(size, model.config.patch_size, strict=True)]
    positions = torch.cartesian_prod(*map(torch.arange, sides))
    return {"position_ids": positions, "video_indices": torch.arange(len(positions))}


def _image_or_video(model: Any, size: Size) -> dict[str, Any]:
    frames = () if len(model.config.patch_size) == 2 else (1,)
    return {"hidden_states": _empty(1, 1, *frames, *size[1:])}


def _prompt_and_image(model: Any, size: Size) -> dict[str, Any]:
    tokens = size[1] * size[2]
    given = {"hidden_states": _empty(1, tokens, 1), "img_mask": _empty(1, tokens // 4)}
    return {**given, "img_shapes": [[(1, *size[1:])]]}


# By family; the others take a latent video [B, C, F, H, W].
LATENTS: dict[str, Callable[[Any, Size], dict[str, Any]]] = {
    **dict.fromkeys(
        ("cogvideox", "anyflow"), lambda _, size: {"hidden_states": _empty(1, size[0], 1, *size[1:])}
    ),
    **dict.fromkeys(("kandinsky5", "kandinsky6"), lambda _, size: {"hidden_states": _empty(1, *size, 1)}),
    "anyflow_far": _chunks,
    "wan_animate2": _segment,
    "ltx": _told,
    "cosmos3": _token_shapes,
    "minimax_h3": _rows,
    **dict.fromkeys(
        ("sd3", "pixart", "text_first", "bria_fibo2", "ernie_image", "lumina2", "prx"),
        lambda _, size: {"hidden_states": _empty(1, 1, *size[1:])},
    ),
    **dict.fromkeys(("flux", "bria"), lambda _, size: {"img_ids": _positions(size)}),
    "flux3": lambda _, size: {"img_ids": torch.nn.functional.pad(_positions(size), (0, 1))},
    "krea2": lambda _, size: {"position_ids": _positions(size)},
    "unet": lambda _, size: {"sample": _empty(1, 1, *size[1:])},
    "hunyuan_image": _image_or_video,
    "qwen_image": lambda _, size: {"img_shapes": [[(1, *(side // PACKED for side in size[1:]))]]},
    "nucleus_moe": lambda _, size: {"img_shapes": [(1, *(side // PACKED for side in size[1:]))]},
    "qwen_image21": _prompt_and_image,
    "z_image": lambda _, size: {"x": [_empty(1, 1, *size[1:])], "cap_feats": [_empty(0, 1)]},
}
