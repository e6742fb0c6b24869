"""Put a sequence function into a layer of a language model, and take it out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accel.patches.site import Site
from accel.patches.transformers_attention import DENSE
from accel.patches.transformers_call import SequenceFn
from accel.patches.transformers_seat import SequenceSeat


@dataclass(frozen=True)
class UninstallSequence:
    """The undo of one installation. Calling it a second time does nothing."""

    module: Any
    seat: SequenceSeat

    def __call__(self) -> None:
        if vars(self.module).get("accel_seat") is self.seat:
            del self.module.accel_seat

    @property
    def in_force(self) -> bool:
        """False once somebody else has taken the seat or set another attention implementation."""
        mine = vars(self.module).get("accel_seat") is self.seat
        return mine and self.module.config._attn_implementation in DENSE


def install_sequence(site: Site, fn: SequenceFn) -> UninstallSequence:
    """Seat `fn` at the site of a model that has been switched; returns the undo."""
    module: Any = site.module
    seat = SequenceSeat(fn, DENSE[module.config._attn_implementation], module)
    module.accel_seat = seat
    return UninstallSequence(module, seat)
