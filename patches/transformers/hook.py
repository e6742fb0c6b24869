"""SequenceHook: what marks a language model as accelerated."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accel.patches.hook import ModelHook
from accel.patches.transformers.attention import register
from accel.patches.transformers.switch import Switch


class SequenceHook(ModelHook):
    """The hook on one language model, and the switch of its attention implementation.

    Nothing in it is closed to the compiler, so that a whole model compiles to one graph: a language model
    has no grid to read and no denoising steps to count.
    """

    def __init__(self, owner: Any = None) -> None:
        super().__init__(owner)
        self.switch: Switch | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A pickle may arrive in a process that has accelerated nothing yet.
        register()
        self.__dict__.update(state)

    def attach(self, model: nn.Module) -> None:
        register()
        self.switch = Switch.of(model)
        self.switch.on(model)
        model.register_forward_pre_hook(self.before, with_kwargs=True)

    def detach(self, model: nn.Module) -> None:
        if self.switch is not None:
            self.switch.off(model)
        super().detach(model)

    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Count layers set to another implementation since; the others look at what they need themselves."""
        if self.owner is not None and not torch.compiler.is_compiling():
            self.owner.before_forward(self)
