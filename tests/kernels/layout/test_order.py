import pytest
import torch

from accel.kernels.layout.order import TokenOrder


def shared(n):
    return TokenOrder.checked(torch.randperm(n))


def per_head(n):
    return TokenOrder.checked(torch.stack([torch.randperm(n) for _ in range(6)]).view(2, 3, n))


@pytest.mark.parametrize("make", [shared, per_head])
@pytest.mark.parametrize("n", [1, 7, 130], ids="N{}".format)
def test_restore_undoes_permute(make, n):
    tokens, order = torch.randn(2, 3, n, 4), make(n)
    assert torch.equal(order.restore(order.permute(tokens)), tokens)
    assert torch.equal(order.restore(order.permute(tokens)[..., 0]), tokens[..., 0])


@pytest.mark.parametrize("make", [shared, per_head])
def test_permute_takes_each_token_from_where_indices_say(make):
    tokens, order = torch.randn(2, 3, 9, 4), make(9)
    permuted, indices = order.permute(tokens), order.indices.expand(2, 3, 9)
    for b in range(2):
        for h in range(3):
            assert torch.equal(permuted[b, h], tokens[b, h, indices[b, h]])


def test_inverse_of_the_inverse_is_the_order():
    order = per_head(11)
    assert torch.equal(order.inverse.inverse.indices, order.indices)
    assert torch.equal(order.indices.gather(-1, order.inverse.indices), torch.arange(11).expand(2, 3, 11))


@pytest.mark.parametrize(
    "indices", [torch.tensor([0, 0, 2]), torch.tensor([1, 2, 3])], ids=["twice", "range"]
)
def test_checked_refuses_what_is_no_permutation(indices):
    with pytest.raises(ValueError, match="permutation"):
        TokenOrder.checked(indices)


@pytest.mark.parametrize("indices", [torch.arange(4).int(), torch.arange(4).view(2, 2)], ids=["int32", "2-d"])
def test_order_refuses_other_types_and_shapes(indices):
    with pytest.raises(ValueError, match="int64"):
        TokenOrder(indices)
