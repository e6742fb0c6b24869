"""Site: one attention module inside a loaded model, and what may be put in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class AttentionFn(Protocol):
    """Attention as a model calls it after norm and rotary embedding."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dense: Callable[[], Tensor]
    ) -> Tensor:
        """q [B, M, H, D], k and v [B, N, Hkv, D] -> [B, M, H, D]; `dense()` is the model's own attention."""
        ...


@dataclass(frozen=True)
class Site:
    """One self-attention module that can be made sparse.

    Args:
        name: dotted name inside its model, for example "blocks.3.attn1".
        component: name of the model inside its pipeline, for example "transformer_2"; empty for a bare model.
        module: the attention module.
        layer: index among the model's sites, in call order; windowed ones are not counted.
        n_layers: number of those.
        heads: query heads.
        text_free: whether no text has reached its input: both passes of guidance compute the same here.
        halvings: how often the rows and columns of a forward's grid are halved before its input: by this a
            site has a grid of its own.
        work: of a dense call, as a share of one at the site of the model where it is most.
        windowed: whether it never sees more than a sliding window: what is said of layers is not said of it.
        causal: a language model's layer, which takes a `SequenceFn` and has no token grid.
    """

    name: str
    component: str
    module: nn.Module
    layer: int
    n_layers: int
    heads: int
    causal: bool = False
    text_free: bool = False
    windowed: bool = False
    halvings: int = 0
    work: float = 1.0

    @property
    def full_name(self) -> str:
        return f"{self.component}.{self.name}" if self.component else self.name
