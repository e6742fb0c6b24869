"""Representatives of groups of tokens: their mean, one of them, a few of them, or all side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from accel.kernels.from_sizes import from_sizes


@dataclass(frozen=True)
class Groups:
    """Consecutive groups of `rows` tokens out of `length`, each with one representative."""

    length: int
    rows: int

    @property
    def count(self) -> int:
        return -(-self.length // self.rows)

    def first(self, device: torch.device) -> Tensor:
        return torch.arange(self.count, device=device) * self.rows

    def last(self, device: torch.device) -> Tensor:
        return (self.first(device) + self.rows).clamp(max=self.length) - 1


@dataclass(frozen=True)
class Representatives:
    """One vector for each group of tokens.

    Args:
        vectors: [B, H, groups, D · folds · parts].
        groups: which tokens each represents.
        folds: how many tokens' vectors are concatenated into one.
        parts: how many vectors represent one token, side by side.
        absent: bool [B, H, groups], representatives that take no part; None where all do.
        lengths: int32 [B], the tokens of each sample that are not padding; None where all are.
        places: int64 [groups], where the tokens are that samples of a block consist of.
    """

    vectors: Tensor
    groups: Groups
    folds: int = 1
    parts: int = 1
    absent: Tensor | None = None
    lengths: Tensor | None = None
    places: Tensor | None = None

    def without(self, absent: Tensor) -> Representatives:
        return replace(self, absent=absent)

    def within(self, lengths: Tensor | None) -> Representatives:
        if lengths is None or self.places is None:
            return replace(self, lengths=lengths)
        return self.without((self.places >= lengths[:, None])[:, None])

    @property
    def counts(self) -> Tensor:
        """How many tokens that are not padding each represents, [groups] or [B, 1, 1, groups]."""
        device = self.vectors.device
        first, end = self.groups.first(device), self.groups.last(device) + 1
        if self.lengths is None:
            return end - first
        return (end.minimum(self.lengths[:, None, None, None]) - first).clamp(min=0)

    @property
    def alike(self) -> bool:
        """Whether each represents as many tokens as every other, as far as sizes show."""
        even = self.groups.length % self.groups.rows == 0
        return even and self.absent is None and self.lengths is None


def ragged_mean(tensor: Tensor, dim: int, rows: int, wide: torch.dtype = torch.float32) -> Tensor:
    """Means of every `rows` entries along `dim`, in a `wide` type, the last over the entries there are."""
    whole = tensor.shape[dim] // rows
    head = tensor.narrow(dim, 0, whole * rows).unflatten(dim, (whole, rows)).mean(dim=dim + 1, dtype=wide)
    if tensor.shape[dim] == whole * rows:
        return head
    rest = tensor.narrow(dim, whole * rows, tensor.shape[dim] - whole * rows)
    return torch.cat([head, rest.mean(dim=dim, keepdim=True, dtype=wide)], dim=dim)


def means(tokens: Tensor, rows: int) -> Representatives:
    """The mean of every `rows` tokens."""
    return Representatives(ragged_mean(tokens, 2, rows), Groups(tokens.shape[2], rows))


def every(tokens: Tensor, step: int, coarser: int) -> Representatives:
    """One token of every `step`: among them is the middle of every `coarser`, a multiple of the step.

    So a query that is picked by a coarser step finds itself among the keys of a finer one: attention to the
    same place, in this frame and in others, is often the strongest there is.
    """
    groups, offset = Groups(tokens.shape[2], step), coarser // 2 % step
    picked = tokens[:, :, offset::step]
    if picked.shape[2] < groups.count:
        # The last group ends before its offset.
        picked = torch.cat([picked, tokens[:, :, -1:]], dim=2)
    return Representatives(picked, groups)


def strongest_channels(
    queries: Representatives, keys: Representatives, count: int
) -> tuple[Representatives, Representatives]:
    """The `count` channels that make most of the difference between keys; the products keep their scale.

    A channel's part in the spread of a row's logits is what queries have in it times how far keys spread in
    it. Query heads that share a key head share its channels.
    """
    q, k = queries.vectors, keys.vectors
    per_key_head = q.shape[1] // k.shape[1]
    strength = q.float().square().mean(dim=2).unflatten(1, (-1, per_key_head)).mean(dim=2)
    # Several times faster than `var` on a CPU.
    spread = (k.float() - k.float().mean(dim=2, keepdim=True)).square().mean(dim=2)
    channels = (strength * spread).topk(count, dim=-1).indices[:, :, None]
    scale = (count / q.shape[3]) ** 0.5
    q = q.gather(3, channels.repeat_interleave(per_key_head, 1).expand(-1, -1, q.shape[2], -1)) * scale
    return replace(queries, vectors=q), replace(
        keys, vectors=k.gather(3, channels.expand(-1, -1, k.shape[2], -1))
    )


def sampled(tokens: Tensor, rows: int, count: int) -> Representatives:
    """`count` tokens of every block of `rows`."""
    index = _sample_positions(tokens.shape[2], rows, count, tokens.device)
    return Representatives(tokens.index_select(2, index), Groups(len(index), 1), places=index)


def folded(tokens: Tensor, stride: int, backwards: bool) -> Representatives:
    """Every `stride` tokens as one vector [stride · D], in order or backwards; the last repeats to fill."""
    cells = _cells(tokens, stride)
    cells = cells.flip(3) if backwards else cells
    return Representatives(cells.flatten(3), Groups(tokens.shape[2], stride), folds=stride)


def boxes(tokens: Tensor, rows: int) -> Representatives:
    """The lowest and the highest value of every channel among every `rows` tokens."""
    cells = _cells(tokens, rows)
    corners = torch.cat([cells.amin(dim=3), cells.amax(dim=3)], dim=3)
    return Representatives(corners, Groups(tokens.shape[2], rows), parts=2)


def signed_means(tokens: Tensor, rows: int) -> Representatives:
    """The mean of every `rows` tokens, its negative and its positive channels apart, in the tokens' type.

    Its product with a box is the largest that the mean has with any point of the box.
    """
    mean = means(tokens, rows)
    vectors = torch.cat([mean.vectors.clamp(max=0), mean.vectors.clamp(min=0)], dim=3)
    return replace(mean, vectors=vectors.to(tokens.dtype), parts=2)


def self_similarity(tokens: Tensor, rows: int) -> Tensor:
    """Float32 [B, H, blocks]: the mean cosine over all pairs of a block's tokens."""
    directions = torch.nn.functional.normalize(tokens, dim=-1)
    return means(directions, rows).vectors.square().sum(dim=-1)


def _cells(tokens: Tensor, rows: int) -> Tensor:
    """[B, H, N, D] -> [B, H, groups, rows, D]; the last token repeats to fill."""
    groups = math.ceil(tokens.shape[2] / rows)
    missing = groups * rows - tokens.shape[2]
    if missing:
        tokens = torch.cat([tokens, tokens[:, :, -1:].expand(-1, -1, missing, -1)], dim=2)
    return tokens.unflatten(2, (groups, rows))


@from_sizes()
def _sample_positions(length: int, rows: int, count: int, device: torch.device) -> Tensor:
    """Int64 [blocks * count]: the tokens that represent each block of `rows`, at the same offsets in each."""
    offsets = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:count]
    firsts = torch.arange(0, length, rows)
    index = firsts[:, None] + offsets % (length - firsts).clamp(max=rows)[:, None]
    return index.flatten().to(device)
