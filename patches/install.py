"""Put an attention function into a site of a diffusers model, and take it out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from accel.patches.family import family_of
from accel.patches.site import AttentionFn, Site


@dataclass(frozen=True)
class Uninstall:
    """The undo of one installation. Calling it a second time does nothing.

    A processor the user has set since is left alone, and the dense backend chosen while ours was in place is
    carried over.
    """

    module: Any
    seated: Any

    def __call__(self) -> None:
        if self.module.processor is not self.seated:
            return
        original = self.seated.original
        if original._attention_backend != self.seated.seat.dense.name:
            original._attention_backend = self.seated.seat.dense.name
        self.module.set_processor(original)

    @property
    def in_force(self) -> bool:
        """False once somebody else has replaced the processor."""
        return self.module.processor is self.seated


def install(model: nn.Module, site: Site, fn: AttentionFn) -> Uninstall:
    """Seat `fn` at the site; returns the undo."""
    family = family_of(model)
    assert family is not None
    module: Any = site.module
    seated = family.seated[type(module.processor)](module.processor, fn)
    module.set_processor(seated)
    return Uninstall(module, seated)
