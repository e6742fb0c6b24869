"""DecodeByChannels: key blocks for single queries after a cache, by every key in the channels that matter.

A query's product with a key comes mostly from a few channels: those that are large in the query and differ
between keys (SparQ, arXiv 2312.04985). A block's score is the share of attention, estimated from these, that
the query head that wants it most gives it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from accel.kernels.decode.attention import grouped
from accel.noun import noun
from accel.policies.decode.blocks import DecodeByBlocks
from accel.policies.decode.memory import Found


@noun
class DecodeByChannels(DecodeByBlocks):
    """Every key is ranked in a share of its channels; heads that share a key head share channels and keys.

    The first stage copies all keys, channel by channel, so that the second reads nothing else of them.

    Args:
        channels: share of the channels that is read, in (0, 1]; 1 finds the blocks of most true attention.
    """

    channels: Annotated[float, Field(gt=0, le=1)] = 0.25
    kind: Literal["channels"] = "channels"

    def search(self, q: Tensor, k: Tensor, found: Found, stage: int, room: int) -> tuple[Tensor, Tensor]:
        if stage == 0:
            by_channel = k.transpose(-1, -2).contiguous()  # [B, Hkv, D, N]
            found.entering = [by_channel, spread_of(by_channel, self._candidates(found, k)[:, None, None])]
        by_channel, spread = found.entering
        queries = grouped(q, k.shape[1])
        count = max(round(self.channels * q.shape[3]), 1)
        channels = (queries.float().square().mean(dim=2) * spread).topk(count, dim=-1).indices  # [B, Hkv, C]
        near = queries.gather(3, channels[:, :, None].expand(-1, -1, queries.shape[2], -1))
        keys = by_channel.gather(2, channels[..., None].expand(-1, -1, -1, by_channel.shape[3]))
        logits = (near @ keys).float() * q.shape[3] ** -0.5  # [B, Hkv, R, N]
        hidden = ~self._candidates(found, by_channel.transpose(-1, -2))[:, None, None]
        shares = logits.masked_fill(hidden, torch.finfo(torch.float32).min).softmax(dim=-1)
        shares = pad(shares, (0, -shares.shape[3] % self.block))
        scores = shares.unflatten(3, (-1, self.block)).sum(dim=-1).amax(dim=2)
        return self.best_blocks(scores, found)

    def _candidates(self, found: Found, k: Tensor) -> Tensor:
        """Bool [B | 1, N]: the keys that may be found."""
        blocks = torch.arange(k.shape[2], device=k.device) // self.block
        return (blocks >= found.first[:, None]) & (blocks < found.stop[:, None])


def spread_of(by_channel: Tensor, counted: Tensor) -> Tensor:
    """Float32 [B, Hkv, D]: the variance of each channel of [B, Hkv, D, N] over the keys that are counted."""
    values, count = by_channel.float() * counted, counted.sum(dim=-1).clamp(min=1)
    return (values.square().sum(dim=-1) / count - (values.sum(dim=-1) / count).square()).clamp(min=0)
