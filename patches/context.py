"""Context: where in the denoising schedule and in the model an attention call is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from accel.patches.grid import TokenGrid
from accel.patches.head_share import HeadShare
from accel.patches.noise import Noise

TextPadding = Literal["last", "anywhere", "behind", "dropped"]


@dataclass(frozen=True)
class Context:
    """What one forward knows, plus the layer of one call.

    Args:
        grid: the token grid of this forward; None where the model has none (language models).
        step: denoising step, counted from 0; None where only `progress` is known.
        n_steps: steps of the schedule; None with `step`.
        progress: share of the schedule already done, in [0, 1].
        noise: the noise level of each step; None where no scheduler has any.
        generation: counts the runs of the schedule; another number is another video.
        turn: counts the steps of this generation that had a forward, from 0, known or not by their number.
        branch: 0 for the first forward of a step, 1 for the second (classifier-free guidance), and so on.
        layer: index of the attention call's layer among the model's attention sites.
        n_layers: number of those.
        text_padding: "last" where the model hides padded text by a key mask that ends in one run of hidden
            keys, "anywhere" where a key mask hides text and nothing else, "behind" where the hidden keys of a
            sequence of text, then video, are behind the video, "dropped" where it leaves padded text out of
            each sample's call; None where it is not known to do either.
        kv_lengths: int32 [B], how many of each sample's keys are not padding; None where all are.
        repeats: whether the forward is given what the one before it in its step was given, text aside: the
            second pass of guidance.
        repeated: whether a forward of this step will be, as far as the step before shows.
        guided: whether steps have a second pass of guidance; None while nobody knows.
        vision: bool [B, N], which tokens of a prompt are of images or videos; None where that is not known.
        heads: which of the layer's heads the call holds where other processes hold the rest; None where it
            holds all.
    """

    grid: TokenGrid | None = None
    step: int | None = None
    n_steps: int | None = None
    progress: float = 0.0
    noise: Noise | None = field(default=None, compare=False, repr=False)
    generation: int = 0
    turn: int = 0
    branch: int = 0
    layer: int = 0
    n_layers: int = 1
    text_padding: TextPadding | None = None
    kv_lengths: Tensor | None = field(default=None, compare=False, repr=False)
    repeats: bool = False
    repeated: bool = False
    guided: bool | None = None
    heads: HeadShare | None = None
    vision: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if (self.step is None) != (self.n_steps is None):
            raise ValueError(
                f"step and n_steps are known together or not at all, got {self.step} and {self.n_steps}"
            )
        if not 0 <= self.progress <= 1:
            raise ValueError(f"progress must be in [0, 1], got {self.progress}")

    def of_call(self, tokens: int) -> Context:
        """The context of a call over that many tokens, less text if the model dropped its padding."""
        grid = self.grid
        if grid is None or self.text_padding != "dropped":
            return self
        dropped = grid.tokens - tokens
        if not 0 < dropped <= grid.text_tokens:
            return self
        return replace(self, grid=replace(grid, text_tokens=grid.text_tokens - dropped))
