"""Progress of a command's runs: which run it is, how long the others take, and a preview of its latents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from accel.cli.picture import Picture
from accel.run.preview import preview
from accel.run.watcher import WARM_UP, Watcher


class NamedBars(Watcher):
    """Puts the run's name, and how long the others will take, in front of the pipeline's own progress bar.

    Args:
        pipe: whose bar; `close` gives it its own text back.
        picture: where the latents of each step are shown, below the bar.
    """

    def __init__(self, pipe: Any, picture: Picture | None = None) -> None:
        self.pipe = pipe
        self.picture = picture
        self.before = dict(getattr(pipe, "_progress_bar_config", {}))
        self.longest = 0.0

    def begins(self, name: str, number: int, of: int) -> None:
        after = (of - number) * self.longest
        rest = f", then {after:.0f} s at most" if after else ""
        which = f"{number} of {of}: {name}{rest}" if of > 1 else name
        self._set({**self.before, "desc": which})
        self.began = time.perf_counter()

    def step(self, step: int, latents: Tensor) -> None:
        if self.picture is not None and (image := preview(latents)) is not None:
            self.picture.draw(image)

    def made(self, name: str, run: Any) -> None:
        self._erase()
        if name != WARM_UP:
            self.longest = max(self.longest, time.perf_counter() - self.began)

    def close(self) -> None:
        self._erase()
        self._set(self.before)

    def _erase(self) -> None:
        if self.picture is not None:
            self.picture.erase()

    def _set(self, config: dict[str, Any]) -> None:
        if hasattr(self.pipe, "set_progress_bar_config"):
            self.pipe.set_progress_bar_config(**config)


@contextmanager
def named_bars(pipe: Any, with_preview: bool) -> Iterator[NamedBars]:
    """Bars for the runs inside, with a preview if it is wanted and the terminal can show one."""
    bars = NamedBars(pipe, Picture.of_terminal() if with_preview else None)
    try:
        yield bars
    finally:
        bars.close()
