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
        branches: the second pass of classifier-free guidance takes over the layout of the first.
    """

    steps: int = Field(default=1, ge=1)
    max_progress: float = Field(default=1.0, gt=0, le=1)
    branches: bool = False
