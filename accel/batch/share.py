"""The share of a batch that each process started by accelerate takes.

The first process says which videos are missing, before any has loaded a model; accelerate splits them. From
then on no process waits for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from accel.batch.batch import Batch
from accel.batch.prompts import Job
from accel.files import FolderLock, remove_leftovers


@contextmanager
def share_of(jobs: Sequence[Job], batch: Batch, state: PartialState) -> Iterator[list[Job]]:
    """The missing videos that this process makes; inside, no other run may write to the folder. Every process
    must call it, and gets others.

    Raises:
        BatchError: in every process, if the folder holds other videos of these names.
        OSError: in every process, if the folder cannot be written, or another run is writing to it.
    """
    lock = FolderLock(batch.folder)
    answer: list[Any] = [_missing(jobs, batch, lock) if state.is_main_process else None]
    broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    try:
        lock.hold(alone=False)
        with state.split_between_processes(answer[0]) as own:
            yield list(own)
    finally:
        lock.release()


def _missing(jobs: Sequence[Job], batch: Batch, lock: FolderLock) -> list[Job] | Exception:
    """What is sent to all processes: the jobs, or the error that stops the run."""
    try:
        batch.manifest.create()
        lock.hold()
        for folder in (batch.folder, batch.manifest.records):
            remove_leftovers(folder)
        missing = batch.missing(jobs)
        batch.manifest.merge()
        lock.hold(alone=False)
    except (ValueError, OSError) as error:
        lock.release()
        return error
    return missing
