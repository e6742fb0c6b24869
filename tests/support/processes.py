"""Run a function in several processes on the CPU that talk through gloo, as one GPU each would."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PATIENCE = 400
ALL_GATHER = torch.distributed.all_gather


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` processes, by rank.

    Args:
        function: of a module that the processes can import; it finds a process group in place.

    Raises:
        RuntimeError: with the traceback of the first process that failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffusers", "accel", "tiny_parallel"])
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        processes = [
            context.Process(
                target=_work, args=(answers, rank, count, meeting, function, arguments), daemon=True
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        try:
            found = dict(_answer(answers) for _ in processes)
        finally:
            for process in processes:
                process.join(5)
                if process.is_alive():
                    process.kill()
    return [found[rank] for rank in range(count)]


def ragged_all_gather(parts: list[Tensor], mine: Tensor, **options: Any) -> None:
    """`all_gather` of tensors of different size, as NCCL has it and gloo has not."""
    longest = max(part.numel() for part in parts)
    padded = torch.cat([mine.flatten(), mine.new_zeros(longest - mine.numel())])
    gathered = [torch.empty_like(padded) for _ in parts]
    ALL_GATHER(gathered, padded, **options)
    for part, whole in zip(parts, gathered, strict=True):
        part.copy_(whole[: part.numel()].view(part.shape))


def _answer(answers: Any) -> tuple[int, Any]:
    rank, failed, answer = answers.get(timeout=PATIENCE)
    if failed:
        raise RuntimeError(f"process {rank}:\n{answer}")
    return rank, answer


def _work(answers: Any, rank: int, count: int, meeting: str, function: Any, arguments: tuple) -> None:
    os.environ["ACCEL_STRICT"] = "1"
    torch.set_num_threads(1)
    # diffusers asks for the number of accelerators, and divides by it.
    torch.accelerator.device_count = lambda: 1
    torch.distributed.all_gather = ragged_all_gather
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=PATIENCE),
        )
        answers.put((rank, False, function(*arguments)))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except BaseException:
        answers.put((rank, True, traceback.format_exc()))
