"""Clusters and Hashed: what belongs together lies together, text last, one order a head."""

import pytest
import torch

from accel.kernels.layout.order import TokenOrder
from accel.patches.grid import TokenGrid
from accel.policies.parts.ordering.content_orders import Clusters, Hashed, content_order


@pytest.mark.parametrize("order", [Clusters(4), Clusters(4096, 1), Hashed(3)], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_orders_are_bijections_with_text_last(order, first):
    grid = TokenGrid(2, 5, 7, 9, first, lead_tokens=3)
    tokens = torch.randn(2, 3, grid.tokens, 8, generator=torch.Generator().manual_seed(0))
    indices = TokenOrder.checked(content_order(order, tokens, grid).indices).indices
    video = range(grid.video_start, grid.video_start + grid.video_tokens)
    others = [token for token in range(grid.tokens) if token not in video]
    assert indices[:, :, grid.video_tokens :].tolist() == [[others] * 3] * 2


def test_planted_clusters_are_found_in_every_head():
    """Four far points, each with ten tokens near it, mixed: after sorting every ten are of one point."""
    generator = torch.Generator().manual_seed(1)
    points = 50 * torch.eye(4, 8)
    label = torch.stack([torch.randperm(40, generator=generator) % 4 for _ in range(3)])
    label[:, :2] = torch.tensor([0, 1])
    tokens = points[label] + torch.randn(3, 40, 8, generator=generator)
    for row, order in zip(label, Clusters(4, 10).arrange(tokens[None])[0], strict=True):
        runs = row[order].unique_consecutive()
        assert len(runs) == len(row.unique())


def test_clusters_follow_the_axis_in_which_they_differ_most():
    line = torch.tensor([3.0, 0.0, 2.0, 1.0]).repeat_interleave(2)
    tokens = torch.stack([100 * line, torch.zeros(8)], dim=1)[None, None]
    sorted_line = line[Clusters(8, 1).arrange(tokens)[0, 0]].tolist()
    assert sorted_line in (sorted(line.tolist()), sorted(line.tolist(), reverse=True))


def test_buckets_follow_the_gray_code():
    """With planes x > 0 and y > 0 the quadrants go around: 00, 01, 11, 10."""
    tokens = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])

    def quadrants(*args, **kwargs):
        return torch.eye(2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", quadrants)
        assert Hashed(2).arrange(tokens[None, None])[0, 0].tolist() == [1, 3, 0, 2]


def test_opposite_queries_and_keys_do_not_share_a_bucket():
    tokens = torch.randn(1, 1, 64, 16, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(Hashed().arrange(tokens), Hashed().arrange(-tokens))
