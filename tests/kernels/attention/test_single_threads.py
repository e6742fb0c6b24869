import os
import threading

import pytest
import torch

from accel.kernels.attention.single_threads import in_parts


def test_parts_cost_the_same_and_run_on_one_thread_each(two_threads):
    found = []
    in_parts(
        lambda rows: found.append((rows, torch.get_num_threads(), threading.current_thread())),
        torch.tensor([5, 0, 1, 2, 2]),
    )
    assert sorted((rows.start, rows.stop) for rows, *_ in found) == [(0, 2), (2, 5)]
    assert [count for _, count, _ in found] == [1, 1]
    assert threading.current_thread() not in {thread for *_, thread in found}


def test_nobody_elses_number_of_threads_changes(two_threads):
    in_parts(lambda rows: None, torch.ones(4))
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 2 and later == [2]


def test_what_a_part_raises_is_raised(two_threads):
    def work(rows):
        raise ArithmeticError("a part")

    with pytest.raises(ArithmeticError, match="a part"):
        in_parts(work, torch.ones(4))


def test_parts_run_under_the_callers_inference_mode(two_threads):
    with torch.inference_mode():
        total = torch.zeros(4)
        in_parts(lambda rows: total[rows].add_(1), torch.ones(4))
    assert total.tolist() == [1, 1, 1, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(two_threads):
    in_parts(lambda rows: None, torch.ones(4))
    child = os.fork()
    if child == 0:
        found = []
        in_parts(found.append, torch.ones(4))
        os._exit(0 if len(found) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
