"""Function modes: whether somebody has put himself between a model and PyTorch's attention.

Perturbed-attention guidance does so with a `TorchFunctionMode`. It sees PyTorch's attention, and would never
see a kernel of ours.
"""

from __future__ import annotations

from torch.overrides import _get_current_function_mode_stack

HARMLESS = ("torch", "accel")


def interceptor() -> str | None:
    """The class of a function mode around the current call that is neither PyTorch's nor ours; or none."""
    for mode in _get_current_function_mode_stack():
        if type(mode).__module__.partition(".")[0] not in HARMLESS:
            return type(mode).__name__
    return None
