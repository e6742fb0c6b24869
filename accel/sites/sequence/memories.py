"""Memories: what one layer remembers of each request, kept as long as the request's cache is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch.multiprocessing.reductions import StorageWeakRef

from accel.patches.transformers.call import SequenceCall
from accel.policies.decode.memory import DecodeMemory
from accel.sites.sequence.pays_off import PaysOff


@dataclass
class Memory:
    """The memory of one request.

    Args:
        decode: what was found for its last token.
        pays_off: which lengths did not pay.
    """

    decode: DecodeMemory = field(default_factory=DecodeMemory)
    pays_off: PaysOff = field(default_factory=PaysOff)


class Memories:
    """One for each request, found by the layer's part of its cache.

    Compiled code knows of no cache; its static ones stay where they are in memory, and are found by that.
    Neither is kept alive. A copied cache has no memory, nor has a copied model.
    """

    def __init__(self) -> None:
        self._of_caches: WeakKeyDictionary[Any, Memory] = WeakKeyDictionary()
        self._of_storages: dict[StorageWeakRef, Memory] = {}

    def __reduce__(self) -> tuple[type[Memories], tuple[()]]:
        return Memories, ()

    def of(self, call: SequenceCall) -> Memory:
        """The memory of a call's request, created by the request's first call."""
        found = self._find(call)
        if found is None:
            found = Memory()
            layer = None if call.past is None else call.past.layer()
            if layer is not None:
                self._of_caches[layer] = found
            else:
                for place in [place for place in list(self._of_storages) if place.expired()]:
                    self._of_storages.pop(place, None)
                self._of_storages[StorageWeakRef(call.k.untyped_storage())] = found
        return found

    def forget(self, call: SequenceCall) -> None:
        """Drop what was found for earlier tokens: it is of no use after this call."""
        found = self._find(call)
        if found is not None:
            found.decode.forget()

    def _find(self, call: SequenceCall) -> Memory | None:
        layer = None if call.past is None else call.past.layer()
        if layer is not None:
            return self._of_caches.get(layer)
        if not self._of_storages:
            return None
        return self._of_storages.get(StorageWeakRef(call.k.untyped_storage()))
