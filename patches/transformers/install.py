"""Put a sequence function into a layer of a language model, and take it out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accel.patches.site import Site
from accel.patches.transformers.attention import DENSE
from accel.patches.transformers.call import SequenceFn
from accel.patches.transformers.seat import SequenceSeat


@dataclass(frozen=True)
class UninstallSequence:
    """The undo of one installation. Calling it a second time does nothing."""

    module: Any
    seat: SequenceSeat

    def put_in(self) -> None:
        """Do what is to be undone."""
        self.module.accel_seat = self.seat

    def __call__(self) -> None:
        if vars(self.module).get("accel_seat") is self.seat:
            del self.module.accel_seat

    @property
    def in_force(self) -> bool:
        """False once somebody else has taken the seat or set another attention implementation."""
        mine = vars(self.module).get("accel_seat") is self.seat
        return mine and self.module.config._attn_implementation in DENSE


def prepare_sequence(site: Site, fn: SequenceFn) -> UninstallSequence:
    """The undo of seating `fn` at the site of a switched model, before anything is touched."""
    module: Any = site.module
    return UninstallSequence(module, SequenceSeat(fn, DENSE[module.config._attn_implementation], module))
