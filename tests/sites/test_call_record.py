"""What one site's calls are counted as, in memory that does not grow with them."""

import torch
from pytest import approx

from accel.sites.call_record import CallRecord


def test_means_by_step_and_over_all():
    record = CallRecord()
    assert record.density() is None
    for step, density in ((0, 0.2), (0, 0.4), (1, 0.9)):
        record.count_sparse(torch.tensor(density), step)
    record.count_dense("first steps", 0)
    record.count_dense("last steps", 2)
    assert (record.calls, record.sparse_calls) == (5, 3)
    assert record.density() == approx(0.5)


def test_a_thousand_calls_keep_one_number():
    record = CallRecord()
    with torch.inference_mode():
        record.count_sparse(torch.tensor(0.25), None)
    for _ in range(999):
        record.count_sparse(torch.tensor(0.25), None)
    assert [kept.total.numel() for kept in record.sparse.values()] == [1]
    assert record.density() == approx(0.25)
