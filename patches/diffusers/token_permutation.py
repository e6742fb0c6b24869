"""TokenPermutation: a model's tokens in another order for the length of a forward.

Between the patch embedding and the output norm every operation treats each token alike, but for attention,
which is indifferent to their order, and the rotary embedding, whose table is put in the same order. So an
order costs one gather where tokens enter the model and one where they leave it, instead of four in every
attention call. All hooks are on modules outside the repeated blocks: these compile to the graph they had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from accel.patches.context import Context
from accel.patches.diffusers.skipping import blurs_queries
from accel.patches.grid import TokenGrid
from accel.patches.own_hooks import remove_hooks_of

PERMUTABLE = ("WanTransformer3DModel",)

OrderOf = Callable[[TokenGrid, torch.device], Tensor | None]


def is_permutable(model: nn.Module) -> bool:
    """Whether it is known where a model's tokens enter and leave."""
    return type(model).__name__ in PERMUTABLE


class TokenPermutation:
    """The hooks that permute one model's tokens.

    Args:
        order_of: (grid, device) -> int64 [N], where each token comes from; none for the model's own order.

    Attributes:
        context: of the forward under way; whoever keeps the contexts sets it, and none after the forward.
    """

    def __init__(self, order_of: OrderOf) -> None:
        self.order_of = order_of
        self.context: Context | None = None

    def applies(self, model: Any, grid: TokenGrid | None) -> bool:
        """Whether this forward's tokens may be moved: not where they are split over devices, or blurred."""
        whole = grid is not None and getattr(model, "_parallel_config", None) is None
        return whole and not blurs_queries(model)

    def attach(self, model: Any) -> None:
        """Hook a model that `is_permutable`."""
        model.patch_embedding.register_forward_hook(self.permute_patches)
        model.rope.register_forward_hook(self.permute_rotary)
        model.condition_embedder.register_forward_hook(self.permute_timesteps)
        model.norm_out.register_forward_pre_hook(self.restore_tokens)

    def detach(self, model: Any) -> None:
        """Remove these hooks; does nothing when they are gone."""
        for module in (model.patch_embedding, model.rope, model.condition_embedder, model.norm_out):
            remove_hooks_of(self, module)

    @torch.compiler.disable
    def permute_patches(self, module: nn.Module, args: tuple, patches: Tensor) -> Tensor:
        """[B, C, F, H, W]: the model flattens the last three to its tokens."""
        order = self._order(patches.device)
        if order is None:
            return patches
        return patches.flatten(2).index_select(2, order).view(patches.shape)

    @torch.compiler.disable
    def permute_rotary(
        self, module: nn.Module, args: tuple, tables: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Tables [1, N, 1, D]."""
        order = self._order(tables[0].device)
        return tables if order is None else tuple(table.index_select(1, order) for table in tables)

    @torch.compiler.disable
    def permute_timesteps(self, module: nn.Module, args: tuple, embedded: tuple) -> tuple:
        """The second of what is embedded is [B, C], or [B, N, C] where each token has a timestep of its own.

        The first, of the output's scale and shift, meets the tokens when they are back in the model's order.
        """
        order = self._order(embedded[1].device)
        if order is None or embedded[1].ndim != 3:
            return embedded
        return (embedded[0], embedded[1].index_select(1, order), *embedded[2:])

    @torch.compiler.disable
    def restore_tokens(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Tokens [B, N, C]."""
        order = self._order(args[0].device)
        if order is None:
            return None
        return (torch.empty_like(args[0]).index_copy_(1, order, args[0]), *args[1:])

    def _order(self, device: torch.device) -> Tensor | None:
        if self.context is None or not self.context.permuted:
            return None
        assert self.context.grid is not None
        return self.order_of(self.context.grid, device)
