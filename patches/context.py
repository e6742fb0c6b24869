"""Context: where in the denoising schedule and in the model an attention call stands."""

from __future__ import annotations

from dataclasses import dataclass

from accel.patches.grid import TokenGrid


@dataclass(frozen=True)
class Context:
    """What one forward knows, plus the layer of one call.

    Args:
        grid: the token grid of this forward; none where the model has none (language models).
        step: denoising step, counted from 0; none where only `progress` is known.
        n_steps: steps of the schedule; none with `step`.
        progress: share of the schedule already done, in [0, 1].
        generation: counts the runs of the schedule; another number is another video.
        branch: 0 for the first forward of a step, 1 for the second (classifier-free guidance), and so on.
        layer: index of the attention call's layer among the model's attention sites.
        n_layers: number of those.
    """

    grid: TokenGrid | None = None
    step: int | None = None
    n_steps: int | None = None
    progress: float = 0.0
    generation: int = 0
    branch: int = 0
    layer: int = 0
    n_layers: int = 1

    def __post_init__(self) -> None:
        if (self.step is None) != (self.n_steps is None):
            raise ValueError(
                f"step and n_steps are known together or not at all, got {self.step} and {self.n_steps}"
            )
        if not 0 <= self.progress <= 1:
            raise ValueError(f"progress must be in [0, 1], got {self.progress}")
