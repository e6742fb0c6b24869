"""Reuse: for how many steps, and for which branches of guidance, chosen blocks are kept."""

from __future__ import annotations

from pydantic import Field

from accel.noun import noun


@noun
class Reuse:
    """For how long the blocks chosen once are kept. Off by default.

    A layout never outlives its generation (a new one begins where the steps start again), nor a change of
    the tensors' shapes, of the grid or of the loaded adapters. It costs memory: a bit for every layer,
    head and pair of blocks, and the order of keys where each head has its own.

    Args:
        steps: a layout serves this many denoising steps, counted from the one it was made in. Where no
            scheduler counts them, those that had a forward are counted.
        max_progress: it is made again once progress has moved by more than this, in (0, 1].
        max_drift: it is made again once a layer's tokens have moved by more than this, however long it may
            serve: in 0.4 of the heads, over all samples, the distance between the mean query now and when it
            was made, and that of the mean key, on average for each channel (HEART, arXiv 2605.14513, whose
            thresholds are sums: 30 over 128 channels are 0.23). None does not look. Looking waits for the
            device in every call.
        branches: the second pass of classifier-free guidance takes over the layout of the first.
    """

    steps: int = Field(default=1, ge=1)
    max_progress: float = Field(default=1.0, gt=0, le=1)
    max_drift: float | None = Field(default=None, gt=0)
    branches: bool = False

    def __post_init__(self) -> None:
        if self.max_drift is not None and self.steps == 1:
            raise ValueError("max_drift needs steps above 1: blocks that serve one step cannot drift")
