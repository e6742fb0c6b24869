"""Policy: chooses the key blocks each query block attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from accel.kernels.layout.layout import BlockLayout
from accel.noun import STRICT
from accel.patches.context import Context
from accel.patches.grid import TokenGrid

BlockRows = Literal[16, 32, 64, 128]
BlockSize = tuple[BlockRows, BlockRows]


class Policy(ABC):
    """A method. Subclass it for your own: `accelerate_model(pipe, Mine())`.

    Those that recipes can name are frozen dataclasses, whose fields are the method's parameters and whose
    `method` field is the name a recipe uses: see `register_policy`.

    Attributes:
        static: whether the blocks follow from the grid and the context alone, never from q and k.
        spans_heads: whether what is kept for one head depends on the others; where other processes hold
            these (`Context.heads`), every one of them plans at the same time.
        only_grid: the one grid that the method can plan; None where it plans any.
    """

    __pydantic_config__ = STRICT

    method: str
    static: ClassVar[bool] = False
    spans_heads: ClassVar[bool] = False
    only_grid: ClassVar[TokenGrid | None] = None

    @abstractmethod
    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The blocks to keep for one attention call.

        Args:
            q: queries after norm and rotary embedding, [B, H, M, D].
            k: keys, the same, [B, Hkv, N, D] with H a multiple of Hkv.
            grid: the token grid of the sequence; None for language models.
            context: step and layer of the call.
        """
