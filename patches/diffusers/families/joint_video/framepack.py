"""HunyuanVideo-Framepack: history at three resolutions, the video tokens of a section, then image and text.

History is read by every frame, so it leads the sequence as text would: policies keep it whole. One sample's
padded text is cut off by the model itself; in a batch it is last, as HunyuanVideo's.
"""

from __future__ import annotations

from typing import Any

from accel.patches.diffusers.families.joint_video import hunyuan_video
from accel.patches.diffusers.reading import latent_grid, lengths, patches_of_history
from accel.patches.grid import TokenGrid

TEXT_PADDING = hunyuan_video.TEXT_PADDING
PROCESSORS = hunyuan_video.PROCESSORS
attention_modules = hunyuan_video.attention_modules

HISTORY = {
    "latents_clean": ("indices_latents_clean", (1, 2, 2)),
    "latents_history_2x": ("indices_latents_history_2x", (2, 4, 4)),
    "latents_history_4x": ("indices_latents_history_4x", (4, 8, 8)),
}


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its latent section [B, C, F, H, W], its history, the same, and its text.

    The length of one sample's text costs a device read for each forward; the model reads it too.
    """
    text, side = kwargs["encoder_hidden_states"], model.config.patch_size
    valid = int(kwargs["encoder_attention_mask"].sum()) if len(text) == 1 else lengths(text)
    return latent_grid(
        kwargs["hidden_states"],
        (model.config.patch_size_t, side, side),
        text_tokens=valid + lengths(kwargs["image_embeds"]),
        lead_tokens=sum(
            patches_of_history(kwargs.get(latents), patch)
            for latents, (indices, patch) in HISTORY.items()
            if kwargs.get(indices) is not None
        ),
    )
