"""Probed: some rows in full, and what sparse attention lacks there, fitted to all others (arXiv 2608.18484).

R = O - O_s of the probes is regressed on O_s with a ridge, kept to the directions in which R is largest, and
added to every row that leaves something out. The probes themselves become exact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from accel.kernels.layout.blocks import blocks_of_tokens
from accel.kernels.layout.boxes import Boxes
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.layout.order import by_head
from accel.kernels.layout.visibility import Visibility
from accel.recipe.compensate import Probed
from accel.sites.grid.padding import real_tokens
from accel.sites.grid.residual_store import leading
from accel.sites.grid.value_map import gram_with_ridge

RIDGE = 0.1  # of the mean variance of the probes' outputs


class Prober:
    """Args: settings: from the recipe."""

    def __init__(self, settings: Probed) -> None:
        self.settings = settings

    def extra(self, tokens: int) -> float:
        """Executed blocks / all blocks, in addition to the layout's: the probes see every key."""
        return min(self.settings.probes, tokens) / tokens

    def __call__(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout) -> Tensor:
        """`out` [B, H, M, D] over the layout's blocks, repaired."""
        places = self._places(layout).expand(*q.shape[:2], -1)
        index = places[..., None].expand(-1, -1, -1, q.shape[3])
        exact = _dense_rows(q.gather(2, index), k, v, layout, places).float()
        wide = out.float()
        x = wide.gather(2, index)
        lengths = q.shape[2] if layout.kv_lengths is None else layout.kv_lengths[:, None, None]
        real = (places < lengths)[..., None]
        mean_r, r = _centred(exact - x, real)
        mean_x, x = _centred(x, real)
        repaired = wide + mean_r + (wide - mean_x) @ self._fit(x, r)
        repaired = repaired.where(_left_out(layout)[..., None], wide)
        return repaired.scatter(2, index, exact).to(out.dtype)

    def _places(self, layout: BlockLayout) -> Tensor:
        """Int64 [B | 1, H | 1, P]: the probes, evenly spread over the order that blocks are cut from."""
        probes = min(self.settings.probes, layout.q_len)
        even = (2 * torch.arange(probes, device=layout.device) + 1) * layout.q_len // (2 * probes)
        order = by_head(layout.q_order)
        return even[None, None] if order is None else order[..., even]

    def _fit(self, x: Tensor, r: Tensor) -> Tensor:
        """[B, H, D, D]: outputs -> what they lack, both [B, H, P, D] less their means."""
        fit = torch.linalg.solve(gram_with_ridge(x, RIDGE), x.transpose(2, 3) @ r)
        # A call that is not finite is not finite in dense attention either, and no reason to fail.
        spread = (r.transpose(2, 3) @ r).nan_to_num(posinf=0.0, neginf=0.0)
        largest = leading(spread, min(self.settings.directions, spread.shape[3]))
        return fit @ largest @ largest.transpose(2, 3)


def _centred(rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [B, H, 1, D] of the rows [B, H, P, D] that are no padding, and those less it, others 0."""
    mean = rows.where(real, 0.0).sum(dim=2, keepdim=True) / real.sum(dim=2, keepdim=True).clamp(min=1)
    return mean, (rows - mean).where(real, 0.0)


def _dense_rows(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, places: Tensor) -> Tensor:
    """Dense attention of the queries [B, H, P, D] at these places [B, H, P]."""
    mask = None
    if isinstance(layout.visibility, Visibility):
        tags = layout.visibility.tags(q.device)
        of_query = tags.low[places, 0][..., None]
        mask = (tags.first[:, 0] <= of_query) & (of_query <= tags.last[:, 0])
    if layout.kv_lengths is not None:
        real = real_tokens(k, layout.kv_lengths).transpose(2, 3)
        mask = real if mask is None else mask & real
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


def _left_out(layout: BlockLayout) -> Tensor:
    """Bool [B | 1, H | 1, M]: the queries that do not see every key they might."""
    if isinstance(layout.visibility, Boxes):
        low, high, first, last = layout.visibility.tags(layout.device)
        return ((low > last.amin(dim=0)) | (high < first.amax(dim=0))).any(dim=1)[None, None]
    rows = layout.complement.kv_num_blocks > 0
    blocks = blocks_of_tokens(layout.q_order, layout.q_len, layout.block_size[0], layout.device)
    shape = torch.broadcast_shapes(rows.shape[:2], blocks.shape[:2])
    return rows.expand(*shape, -1).gather(2, blocks.expand(*shape, -1))
