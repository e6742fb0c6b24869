"""A machine that says it has a Hopper GPU, with a cache folder of its own; nothing can run on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from accel.kernels import check_results, timings


@contextmanager
def fake_hopper(cache: Path, name: str = "NVIDIA H200") -> Iterator[pytest.MonkeyPatch]:
    """PyTorch tells of one Hopper GPU called `name`; results are kept below `cache`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        patch.setattr(torch.cuda, "get_device_name", lambda device: name)
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.delenv("ACCEL_CHECK", raising=False)
        forget()
        yield patch
    forget()


def forget() -> None:
    """What a new process knows: nothing."""
    check_results.known.cache_clear()
    check_results.key.cache_clear()
    timings.known.cache_clear()
