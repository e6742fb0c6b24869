"""The share of a batch that one of the processes takes which accelerate started.

The first process says which videos are missing, before any has loaded a model; accelerate splits them. From
then on no process waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from accel.batch import Batch
from accel.prompts import Job
from accel.whole_file import remove_leftovers


def share_of(jobs: Sequence[Job], batch: Batch, state: PartialState) -> list[Job]:
    """The missing videos that this process makes. Every process must call it, and gets others.

    Raises:
        BatchError: in every process, if the folder holds other videos of these names.
        OSError: likewise, if the folder cannot be written.
    """
    answer: list[Any] = [_missing(jobs, batch) if state.is_main_process else None]
    broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    with state.split_between_processes(answer[0]) as own:
        return list(own)


def _missing(jobs: Sequence[Job], batch: Batch) -> list[Job] | Exception:
    """What is sent to all processes: the jobs, or why there are none."""
    try:
        batch.manifest.create()
        for folder in (batch.folder, batch.manifest.records):
            remove_leftovers(folder)
        missing = batch.missing(jobs)
        batch.manifest.merge()
    except (ValueError, OSError) as error:
        return error
    return missing
