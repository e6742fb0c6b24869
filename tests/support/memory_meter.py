"""MemoryMeter: the peak of live tensor bytes, counted at every operator: alike on every run and machine."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryMeter(TorchDispatchMode):
    """Counts the storages that operators make inside the block, until they are freed.

    What an operator allocates and frees inside itself is not seen; PyTorch's attention on the CPU and the
    Triton kernels keep no more than a tile for each thread or program.

    Attributes:
        live, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id_of(leaf) not in given:
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def id_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_bytes(call: Any) -> int:
    """The peak of a call, beyond what was live before it."""
    with MemoryMeter() as meter:
        call()
    return meter.peak
