"""TokenClock: a streamer that looks at the clock, and hands on the text as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import TextStreamer


class TokenClock(TextStreamer):
    """What transformers gives the prompt, and then every token.

    Args:
        show: is given the text, a few words at a time; None for nobody.
    """

    def __init__(self, tokenizer: Any, show: Callable[[str], None] | None = None) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.show = show
        self.started = time.perf_counter()
        self.ticks: list[float] = []

    def put(self, value: Tensor) -> None:
        # Tokens arrive on the host, so an accelerator has been waited for.
        self.ticks.append(time.perf_counter())
        if self.show is not None:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if self.show is not None:
            self.show(text)

    @property
    def seconds_to_first(self) -> float:
        return self.ticks[1] - self.started

    @property
    def tokens_per_second(self) -> float | None:
        after_first = len(self.ticks) - 2
        return after_first / (self.ticks[-1] - self.ticks[1]) if after_first > 0 else None
