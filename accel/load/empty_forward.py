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
    family = family_of(model)
    assert family is not None
    return family.read_grid(model, (), {**_conditions(), **_latent(model)(model, size)})


def is_image_model(class_name: str) -> bool:
    """Whether a model of this class makes single images."""
    return ".families.image." in FAMILIES.get(class_name, "")


def _latent(model: Any) -> Callable[[Any, Size], dict[str, Any]]:
    name = known_name(model, FAMILIES)
    assert name is not None
    return LATENTS.get(FAMILIES[name].rpartition(".")[2], _video)


def _conditions() -> dict[str, Any]:
    nothing = torch.empty(1, 0, 1, device="meta")
    return {**dict.fromkeys(CONDITIONS, nothing), "encoder_attention_mask": torch.zeros(1, 0)}


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _video(model: Any, size: Size) -> dict[str, Any]:
    return {"hidden_states": _empty(1, 1, *size)}


def _frames_first(model: Any, size: Size) -> dict[str, Any]:
    frames, height, width = size
    return {"hidden_states": _empty(1, frames, 1, height, width)}


def _channels_last(model: Any, size: Size) -> dict[str, Any]:
    return {"hidden_states": _empty(1, *size, 1)}


def _told(model: Any, size: Size) -> dict[str, Any]:
    frames, height, width = size
    tokens = _empty(1, frames * height * width, 1)
    return {"hidden_states": tokens, "num_frames": frames, "height": height, "width": width}


def _token_shapes(model: Any, size: Size) -> dict[str, Any]:
    frames, height, width = size
    side = model.config.latent_patch_size
    shape = (frames, height // side, width // side)
    return {"vision_token_shapes": [shape], "und_len": 0, "sequence_length": shape[0] * shape[1] * shape[2]}


def _image(model: Any, size: Size) -> dict[str, Any]:
    return {"hidden_states": _empty(1, 1, *size[1:])}


def _positions(model: Any, size: Size) -> dict[str, Any]:
    axes = [torch.arange(1), *(torch.arange(side // PACKED) for side in size[1:])]
    return {"img_ids": torch.cartesian_prod(*axes)}


def _joint_positions(model: Any, size: Size) -> dict[str, Any]:
    return {"position_ids": _positions(model, size)["img_ids"]}


def _rows(model: Any, size: Size) -> dict[str, Any]:
    sides = [side // patch for side, patch in zip(size, model.config.patch_size, strict=True)]
    positions = torch.cartesian_prod(*map(torch.arange, sides))
    return {"position_ids": positions, "video_indices": torch.arange(len(positions))}


def _square_or_video(model: Any, size: Size) -> dict[str, Any]:
    return _image(model, size) if len(model.config.patch_size) == 2 else _video(model, (1, *size[1:]))


def _shapes(model: Any, size: Size) -> dict[str, Any]:
    return {"img_shapes": [[(1, *(side // PACKED for side in size[1:]))]]}


def _listed(model: Any, size: Size) -> dict[str, Any]:
    return {"x": [_empty(1, 1, *size[1:])], "cap_feats": [_empty(0, 1)]}


# By family; the others take a latent video [B, C, F, H, W].
LATENTS: dict[str, Callable[[Any, Size], dict[str, Any]]] = {
    **dict.fromkeys(("cogvideox", "anyflow"), _frames_first),
    **dict.fromkeys(("kandinsky5", "kandinsky6"), _channels_last),
    "ltx": _told,
    "cosmos3": _token_shapes,
    "minimax_h3": _rows,
    **dict.fromkeys(("sd3", "pixart", "text_first", "bria_fibo2", "ernie_image"), _image),
    **dict.fromkeys(("flux", "flux3", "bria"), _positions),
    "krea2": _joint_positions,
    "hunyuan_image": _square_or_video,
    "qwen_image": _shapes,
    "z_image": _listed,
}
