"""Threads that each compute alone: a call in parts, for products that are too small to be divided."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

_STARTING = threading.Lock()


def in_parts(work: Callable[[slice], None], costs: Tensor) -> None:
    """Do `work` for the rows of every part, on as many threads as PyTorch uses in the one that calls.

    Args:
        work: for the rows of a slice; runs in the calling thread's inference mode, without gradients.
        costs: [R], of each row, at least 0; the parts cost about the same.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return work(slice(0, len(costs)))
    mode = torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad

    def part(rows: slice) -> None:
        with mode():
            work(rows)

    bounds = _bounds(costs, threads)
    with _STARTING:
        pool = _pool(os.getpid(), threads)
    found = [pool.submit(part, slice(*ends)) for ends in pairwise(bounds)]
    for one in found:
        one.result()


def _bounds(costs: Tensor, parts: int) -> list[int]:
    """Where parts of about equal cost begin and end: parts + 1 numbers."""
    done = costs.cumsum(0)
    goals = torch.arange(1, parts) * (done[-1] / parts)
    return [0, *torch.searchsorted(done.double(), goals.double(), right=True).tolist(), len(costs)]


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads of one process; a forked one inherits none and starts its own."""
    pool = ThreadPoolExecutor(threads, "accel", _one_thread)
    all_there = threading.Barrier(threads)
    for one in [pool.submit(all_there.wait) for _ in range(threads)]:
        one.result()
    # The number is each thread's own, but threads that start later, and MKL, take the one set last.
    torch.set_num_threads(threads)
    return pool


def _one_thread() -> None:
    torch.set_num_threads(1)
    # A thread that never asked takes the number set last at its first work.
    torch.get_num_threads()
