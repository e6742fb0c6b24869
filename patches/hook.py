"""ModelHook: marks a model as accelerated, and is found on it when the acceleration is removed.

Plain `torch.nn.Module` hooks: they survive `copy.deepcopy` and `pickle`, which diffusers' hook registry does
not (it rebinds `forward` to the module that was hooked first), and removing them leaves nothing behind. They
are bound methods, found and removed by the object they belong to: handles would tie the removal to the module
that was hooked first, and a copied or unpickled module has no such handle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn


class ModelHook(ABC):
    """The hooks on one model.

    Args:
        owner: what attached the hook, for code that finds the hook on a model.

    Attributes:
        forwards: forwards that finished since the hook was attached, where they are counted.
    """

    def __init__(self, owner: Any = None) -> None:
        self.owner = owner
        self.forwards = 0

    @property
    def step_source(self) -> str:
        """What the denoising steps are counted by, in words; empty if there are no steps."""
        return ""

    @abstractmethod
    def attach(self, model: nn.Module) -> None:
        """Hook the model."""

    @abstractmethod
    def before(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """What runs before a forward: the hook by which `hook_of` finds this object."""

    def detach(self, model: nn.Module) -> None:
        """Remove this hook's entries; does nothing when they are gone."""
        # `hook_of` finds what an interrupt has left by the hook that is removed last.
        remove_hooks_of(self, model)


def hook_of(model: nn.Module) -> ModelHook | None:
    """The hook that is attached to a model, if any."""
    for hook in model._forward_pre_hooks.values():
        owner = owner_of(hook)
        if isinstance(owner, ModelHook):
            return owner
    return None


def owner_of(hook: Any) -> Any:
    """The object whose method a hook is; None for a plain function."""
    return getattr(hook, "__self__", None)


def remove_hooks_of(owner: Any, module: nn.Module) -> None:
    """Remove the forward hooks of a module that are methods of `owner`; the pre-hooks go last.

    Whoever is found by a pre-hook can so be found until all else is gone.
    """
    for hooks, extra in (
        (module._forward_hooks, (module._forward_hooks_with_kwargs, module._forward_hooks_always_called)),
        (module._forward_pre_hooks, (module._forward_pre_hooks_with_kwargs,)),
    ):
        for key in [key for key, hook in hooks.items() if owner_of(hook) is owner]:
            del hooks[key]
            for flags in extra:
                flags.pop(key, None)
