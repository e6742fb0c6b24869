"""Own hooks: PyTorch module hooks that are bound methods, found and removed by the object they belong to.

Handles would tie the removal to the module that was hooked first; a copied or unpickled module has none.
"""

from __future__ import annotations

from typing import Any

from torch import nn


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
