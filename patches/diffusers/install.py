"""Put an attention function into a site of a diffusers model, and take it out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from accel.patches.diffusers.family import family_of
from accel.patches.site import AttentionFn, Site


@dataclass(frozen=True)
class Uninstall:
    """The undo of one installation. Calling it a second time does nothing.

    A processor the user has set since is left alone, and the dense backend chosen while ours was in place is
    carried over.
    """

    module: Any
    routed: Any

    def put_in(self) -> None:
        """Do what is to be undone, unless the user has set another kind of processor."""
        if type(stock(self.module.processor)) is type(self.routed.original):
            set_processor(self.module, self.routed)

    def __call__(self) -> None:
        if self.module.processor is self.routed:
            set_processor(self.module, self.routed.original)

    @property
    def in_force(self) -> bool:
        """False once somebody else has replaced the processor."""
        return self.module.processor is self.routed

    @property
    def chosen_backend(self) -> str | None:
        """The dense backend that was chosen while ours was in place; None if it has not changed."""
        chosen = getattr(self.routed.slot.dense, "name", None)
        before = getattr(self.routed, "backend_before", None)
        return None if chosen is None or chosen == before else str(getattr(chosen, "value", chosen))

    @property
    def dense_backend(self) -> str:
        """What dense calls run on, for people."""
        return getattr(self.routed.slot.dense, "label", "PyTorch's attention")


def install(model: nn.Module, site: Site, fn: AttentionFn) -> Uninstall:
    """Install `fn` at the site; returns the undo."""
    uninstall = prepare(model, site, fn)
    uninstall.put_in()
    return uninstall


def prepare(model: nn.Module, site: Site, fn: AttentionFn) -> Uninstall:
    """The undo of installing `fn` at the site, before anything is touched: an interrupt finds it in place."""
    family = family_of(model)
    assert family is not None
    module: Any = site.module
    original = stock(module.processor)
    return Uninstall(module, family.processors[type(original)](original, fn))


def stock(processor: Any) -> Any:
    """The stock processor that a routed one replaces, or the processor itself.

    A routed one may come back after its removal: code that kept the processors of an accelerated model sets
    them again, as `unfuse_qkv_projections` does.
    """
    return getattr(processor, "original", processor)


def set_processor(module: Any, processor: Any) -> None:
    """Give an attention module a processor; Mochi's has no method for it."""
    if hasattr(module, "set_processor"):
        module.set_processor(processor)
    else:
        module.processor = processor
