"""Z-Image: the tokens of one image and of its caption, each filled up to a multiple of 32.

What fills the image up comes before the caption and is attended to, as the model was trained; it counts as
text. Only what fills shorter captions of a batch up is padding, and it is last.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF, ZSingleStreamAttnProcessor
from torch import Tensor

from accel.patches.diffusers.reading import modules_named
from accel.patches.diffusers.routed_processor import routed
from accel.patches.grid import TokenGrid

TEXT_PADDING = "last"
PROCESSORS = routed(ZSingleStreamAttnProcessor)
# The attention of the joint layers; the refiners of image and caption are not changed.
attention_modules = modules_named("layers.*.attention")


def read_grid(model: Any, args: tuple, kwargs: dict[str, Any]) -> TokenGrid:
    """The grid of one forward from its images, a list of [C, F, H, W], and its captions, a list of [T, C].

    Raises:
        ValueError: if the images differ in size. Sequences with images as conditions are not lists of
            tensors, and not readable either.
    """
    sizes = {tuple(image.shape[1:]) for image in kwargs["x"]}
    if len(sizes) != 1:
        raise ValueError(f"images of different size: {sorted(sizes)}")
    ((frames, height, width),) = sizes
    side, depth = kwargs.get("patch_size", 2), kwargs.get("f_patch_size", 1)
    grid = TokenGrid(frames // depth, height // side, width // side)
    captions = max(filled_up(len(caption)) for caption in kwargs["cap_feats"])
    text = filled_up(grid.video_tokens) - grid.video_tokens + captions
    return TokenGrid(grid.frames, grid.height, grid.width, text_tokens=text)


def filled_up(tokens: int) -> int:
    """The next multiple of what Z-Image fills its sequences up to."""
    return tokens + -tokens % SEQ_MULTI_OF


def read_timestep(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The timestep of one forward, which this model takes in [0, 1], growing as noise falls."""
    return (1 - kwargs["t"]) * 1000
