"""SequenceHook: what marks a language model as accelerated."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from accel.patches.hook import ModelHook
from accel.patches.transformers import vision
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
        # Also after a forward that fails: what it announced is not the next one's.
        model.register_forward_hook(self.after, always_call=True)

    def detach(self, model: nn.Module) -> None:
        if self.switch is not None:
            self.switch.off(model)
        super().detach(model)

    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Count layers set to another implementation since, and read which tokens are of images."""
        if torch.compiler.is_compiling():
            return
        vision.announce(model.config, args, kwargs)
        if self.owner is not None:
            self.owner.before_forward(self)

    def after(self, model: nn.Module, args: tuple, output: Any) -> None:
        """Forget what was read."""
        if not torch.compiler.is_compiling():
            vision.take_back()
