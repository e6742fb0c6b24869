"""Case: one model class under test, its tiny instance, its inputs, and what those must be read as."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from accel.patches.grid import Run, Span, TokenGrid
from tiny_inputs import DIM, HEADS, VALID

SMALL = {"num_attention_heads": HEADS, "attention_head_dim": DIM}
ROPE = (4, 6, 6)
# Two layers of each of two kinds.
MIXED = {**SMALL, "in_channels": 4, "num_layers": 2, "num_single_layers": 2}


@dataclass(frozen=True)
class Case:
    """A model class under test.

    Args:
        config: of its constructor.
        inputs: (batch, frames, height, width) in tokens -> the arguments of a forward.
        text: tokens of text, image embeddings or history in the sequence; or that, of the video's tokens.
        text_first: text before the video.
        lead: tokens before all others; or that, of the video's frames, rows and columns.
        tail: tokens after all others; or that, of the video's frames, rows and columns.
        spans: videos among the lead; or those, of the same.
        runs: who sees whom, of the same.
        sites: how many attention modules must be found.
        graphs: compiled graphs of its repeated blocks, as many as of the stock model: one for each class of
            block and layout of its inputs.
        whole: whether a block compiles into one graph.
        prepare: what is done to the model before anything else.
        pads: name of the argument that holds the padded text, where padding is attended to by nobody.
        image: one frame only.
        even: whether its images have even sides, in tokens.
        calls: attention calls of a site in one forward of a batch of two.
        halvings: of the sites, in call order; one number stands for all.
    """

    class_name: str
    config: dict[str, Any]
    inputs: Callable[[int, int, int, int], dict[str, Any]]
    text: int | Callable[[int], int] = 0
    text_first: bool = False
    lead: int | Callable[[int, int, int], int] = 0
    tail: int | Callable[[int, int, int], int] = 0
    spans: tuple[Span, ...] | Callable[[int, int, int], tuple[Span, ...]] = ()
    runs: Callable[[int, int, int], tuple[Run, ...]] = lambda *size: ()
    sites: int = 3
    graphs: int = 1
    whole: bool = True
    prepare: Callable[[Any], None] = lambda model: None
    pads: str | None = None
    image: bool = False
    even: bool = False
    calls: int = 1
    halvings: tuple[int, ...] = (0,)

    def model(self, **changes: Any) -> Any:
        torch.manual_seed(0)
        model = getattr(diffusers, self.class_name)(**{**self.config, **changes})
        model.eval().requires_grad_(False)
        self.prepare(model)
        for name, parameter in model.named_parameters():
            # Random models attend almost uniformly: sharpen, so that dropped blocks show in the output.
            if "norm" in name and name.endswith(
                ("_q.weight", "_k.weight", "query_norm.weight", "key_norm.weight")
            ):
                parameter.mul_(2.5)
            # Gates that start at zero would hide attention altogether.
            if not parameter.any():
                parameter.normal_(std=0.2)
        return model

    def arguments(self, size: tuple[int, int, int], batch: int = 1) -> dict[str, Any]:
        """Forward arguments for a video of that many frames, rows and columns of tokens."""
        return {**self.inputs(batch, *size), "return_dict": False}

    def grid(self, size: tuple[int, int, int]) -> TokenGrid:
        text = self.text(math.prod(size)) if callable(self.text) else self.text
        lead, tail, spans = (
            part(*size) if callable(part) else part for part in (self.lead, self.tail, self.spans)
        )
        others = {"lead_tokens": lead, "tail_tokens": tail, "spans": spans, "runs": self.runs(*size)}
        return TokenGrid(*size, text_tokens=text, text_first=self.text_first, **others)

    def grids(self, size: tuple[int, int, int]) -> list[TokenGrid]:
        """Of the attention calls of a batch of two, in call order; one stands for all that are alike."""
        whole = self.grid(size)
        if self.calls == 2:
            return [whole, TokenGrid(*size, text_tokens=VALID)]
        return [whole.halved(times) for times in self.halvings]


def output(model: Any, arguments: dict[str, Any]) -> Tensor:
    """The video, or the images of a list as one tensor."""
    result = model(**arguments)
    result = result[0] if isinstance(result, tuple | list) else result
    return torch.stack(result) if isinstance(result, list) else result
