"""Put a sequence function into a layer of a language model, and take it out again."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from accel.patches.hook import remove_hooks_of
from accel.patches.site import Site
from accel.patches.transformers.attention import NAME
from accel.patches.transformers.call import SequenceFn
from accel.patches.transformers.interface import interface_of
from accel.patches.transformers.sites import stock_config
from accel.patches.transformers.slot import SequenceSlot


@dataclass(frozen=True)
class UninstallSequence:
    """The undo of one installation. Calling it a second time does nothing.

    The layer is given its own configuration, a copy that names our attention function. The one of the
    model, which other models may share, is not touched: nothing else in the model behaves otherwise.
    """

    module: Any
    slot: SequenceSlot

    def put_in(self) -> None:
        """Do what is to be undone."""
        if (other := vars(self.module).get("accel_slot")) is not None:
            remove_hooks_of(other, self.module)
        self.module.accel_slot = self.slot
        self.module.register_forward_pre_hook(self.slot.before, with_kwargs=True)
        self.module.config = self.slot.config

    def __call__(self) -> None:
        if self.module.config is self.slot.config:
            self.module.config = self.slot.stock
        remove_hooks_of(self.slot, self.module)
        if vars(self.module).get("accel_slot") is self.slot:
            del self.module.accel_slot

    @property
    def in_force(self) -> bool:
        """False once somebody else has taken the slot or set another attention implementation."""
        return self.module.config is self.slot.config and self.slot.is_wanted

    @property
    def dense_backend(self) -> str:
        """What dense calls run on, for people."""
        return f"transformers' {self.slot.replaced}"


def prepare_sequence(site: Site, fn: SequenceFn) -> UninstallSequence:
    """The undo of installing `fn` at the site, before anything is touched."""
    module: Any = site.module
    interface = interface_of(module)
    assert interface is not None
    stock = stock_config(module)
    config = copy.copy(stock)
    config._attn_implementation_internal = NAME
    dense = interface.dense(stock._attn_implementation)
    return UninstallSequence(module, SequenceSlot(fn, dense, module, stock, config))
