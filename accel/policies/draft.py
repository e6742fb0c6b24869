"""Draft: blocks chosen on a low-resolution draft of the attention map (arXiv 2505.14708)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from accel.kernels.from_sizes import from_sizes
from accel.kernels.layout.layout import BlockLayout
from accel.kernels.planning.representatives import ragged_mean
from accel.noun import noun
from accel.patches.context import Context
from accel.patches.grid import TokenGrid
from accel.policies.parts.always import Always
from accel.policies.parts.grid_blocks import block_counts, require_grid
from accel.policies.parts.ordering.orders import Side, Tile, token_order
from accel.policies.parts.ramp import Ramp, fixed
from accel.policies.parts.selectors import Share, TopK
from accel.policies.policy import BlockSize, Policy


@noun
class Draft(Policy):
    """Attention between the means of small regions of a frame decides which blocks are computed.

    Tokens are reordered so that whole regions fill whole blocks; the smaller regions of frames that the
    region does not divide come after them. A block's score is that of its strongest pair of regions, so on
    divisible grids with regions of a block's size the choice is the published one.

    Args:
        density: kept video blocks / all video blocks, in (0, 1], before what is always kept.
        select: "row_top_k" keeps the same number of blocks in every row, so that no row starves;
            "head_threshold", the published rule, takes one threshold for a head.
        region: rows and columns of a region; turned around on grids higher than wide.
        block_size: (query rows, key rows).
    """

    method: Literal["draft"] = "draft"
    density: Share | Ramp = 0.25
    select: Literal["head_threshold", "row_top_k"] = "row_top_k"
    region: tuple[Side, Side] = (8, 16)
    block_size: BlockSize = (128, 128)

    def layout(self, q: Tensor, k: Tensor, grid: TokenGrid | None, context: Context) -> BlockLayout:
        """The blocks of each sample and head; text, the diagonal and each row's best are always kept.

        Raises:
            ValueError: without the grid of these tokens.
        """
        grid = require_grid(self.method, q.shape[2], k.shape[2], grid)
        region = self.region if grid.height <= grid.width else (self.region[1], self.region[0])
        order = Tile((1, *region))
        scores = draft_map(q, k, grid, region)
        for axis, rows in ((2, self.block_size[0]), (3, self.block_size[1])):
            scores = strongest_region(scores, axis, block_regions(grid, region, rows, q.device))
        must = Always().blocks(grid, order, self.block_size, q.device)[None, None]
        keep = self._select(scores, must, grid)
        tokens = token_order(order, grid, q.device)
        return BlockLayout.from_mask(
            keep, self.block_size, grid.tokens, grid.tokens, q_order=tokens, kv_order=tokens
        )

    def _select(self, scores: Tensor, must: Tensor, grid: TokenGrid) -> Tensor:
        rows, columns = block_counts(grid, self.block_size)
        if self.select == "head_threshold":
            chosen = head_threshold(scores, fixed(self.density))
            chosen.scatter_(3, scores.argmax(dim=3, keepdim=True), True)
            return pad(chosen, (0, columns - chosen.shape[3], 0, rows - chosen.shape[2])) | must
        of_text = (0, columns - scores.shape[3], 0, rows - scores.shape[2])
        return TopK(fixed(self.density)).keep(pad(scores, of_text), must)


def draft_map(q: Tensor, k: Tensor, grid: TokenGrid, region: tuple[int, int]) -> Tensor:
    """Float32 [B, H, g, g]: softmax attention between the means of the g regions, frame by frame, row-major.

    A region is `region` rows and columns of one frame, smaller at the frame's lower and right border.
    """
    mean_q, mean_k = (_region_means(x, grid, region) for x in (q, k))
    groups = q.shape[1] // k.shape[1]
    shared = mean_q.unflatten(1, (k.shape[1], groups)).flatten(2, 3) * q.shape[3] ** -0.5
    logits = shared @ mean_k.transpose(-1, -2)
    return logits.unflatten(2, (groups, -1)).flatten(1, 2).softmax(dim=-1)


def head_threshold(scores: Tensor, density: float) -> Tensor:
    """Bool like `scores`, [B, H, Mb, Nb]: not below the head's k-th smallest of n, k = int((1 - density) n).

    n - k + 1 entries and those that tie with the k-th are kept; a row may be left without any.
    """
    entries = scores.flatten(2)
    below = int((1 - density) * entries.shape[2])
    if below == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores >= entries.kthvalue(below, dim=2).values[..., None, None]


def strongest_region(scores: Tensor, axis: int, regions: Tensor) -> Tensor:
    """`scores` with the regions along `axis` replaced by blocks, each with the best score of its regions.

    Args:
        regions: int64 [blocks, R].
    """
    out = scores.index_select(axis, regions[:, 0])
    for other in regions.T[1:]:
        out = torch.maximum(out, scores.index_select(axis, other))
    return out


@from_sizes()
def block_regions(grid: TokenGrid, region: tuple[int, int], rows: int, device: torch.device) -> Tensor:
    """Int64 [video blocks, R]: the regions in each block of `rows` tokens, the first repeated to fill R."""
    across = -(-grid.width // region[1])
    down = -(-grid.height // region[0])
    position = Tile((1, *region)).positions(grid)
    frame, in_frame = position // grid.frame_tokens, position % grid.frame_tokens
    of_token = (
        frame * down + in_frame // grid.width // region[0]
    ) * across + in_frame % grid.width // region[1]
    count = grid.frames * down * across
    pair = (torch.arange(grid.video_tokens) // rows * count + of_token).unique()
    block = pair // count
    first = torch.searchsorted(block, block.unique())
    slot = torch.arange(len(pair)) - first[block]
    regions = (pair % count)[first][:, None].repeat(1, int(slot.max()) + 1)
    regions[block, slot] = pair % count
    return regions.to(device)


def _region_means(tokens: Tensor, grid: TokenGrid, region: tuple[int, int]) -> Tensor:
    """Float32 [B, H, g, D]."""
    video = tokens[:, :, grid.video_start : grid.video_start + grid.video_tokens]
    box = video.unflatten(2, (grid.frames, grid.height, grid.width))
    # All columns of a region's rows are alike in number, so the mean of row means is its mean.
    return ragged_mean(ragged_mean(box, 4, region[1]), 3, region[0]).flatten(2, 4)
