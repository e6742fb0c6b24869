"""Observers: who watches a forward or an attention call, which must then run dense.

Our kernels have no backward. Perturbed-attention guidance puts a `TorchFunctionMode` between a model and
PyTorch's attention: it would never see our kernels. What is recorded once and run on other inputs has to
be the model's own attention: blocks are chosen for one input.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import BackwardCFunction
from torch.overrides import _get_current_function_mode_stack

SYMBOLIC = (torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY)
HARMLESS = ("torch", "accel")

GRADIENTS = "gradients are recorded"


def records_gradients(*tensors: Tensor) -> bool:
    """Whether what is computed from any of these is recorded."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_differentiated(*tensors: Tensor) -> bool:
    """Whether derivatives are taken of what is computed from any of these, or will be.

    Forward-mode derivatives ride on tensors that record nothing.
    """
    return records_gradients(*tensors) or forward_ad._current_level >= 0 or _runs_again_with_gradients()


def _runs_again_with_gradients() -> bool:
    """Whether this runs in the forward of a custom autograd function, where nothing is recorded.

    A reentrant checkpoint is one, and runs the same a second time to record it: both must agree. PyTorch
    leaves no other mark of it than its frame on the call stack. Called where nothing is recorded, it has no
    functions to hand gradients to and never runs again.
    """
    frame = None if torch.is_grad_enabled() else sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_varnames[:1] == ("ctx",):
            ctx = frame.f_locals["ctx"]
            if isinstance(ctx, BackwardCFunction) and ctx.next_functions:
                return True
        frame = frame.f_back
    return False


def recorder() -> str | None:
    """What happens to what runs now, if it is recorded for other inputs or has no values; None otherwise."""
    if (traced := tracer()) is not None:
        return traced
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return "captured in a CUDA graph"
    return None


def tracer() -> str | None:
    """As `recorder`, without CUDA graphs: what reads no tensor on the host may be captured in one."""
    if torch.compiler.is_exporting():
        return "exported"
    if torch.jit.is_tracing():
        return "traced by torch.jit"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "transformed by torch.func or torch.vmap"
    if any(torch._C._get_dispatch_mode(mode) is not None for mode in SYMBOLIC):
        return "run on tensors without values"
    return None


def exports_by_tracing() -> bool:
    """Whether this very line is being traced for `torch.export(..., strict=True)`; else it runs."""
    return torch.compiler.is_dynamo_compiling() and torch.compiler.is_exporting()


def is_recorded() -> bool:
    """Whether there is a `recorder`, in a form that `torch.compile` can trace."""
    if torch.compiler.is_dynamo_compiling():
        return exports_by_tracing()
    return recorder() is not None


def interceptor() -> str | None:
    """The class of a function mode around the current call that is neither PyTorch's nor ours; or None."""
    for mode in _get_current_function_mode_stack():
        if type(mode).__module__.partition(".")[0] not in HARMLESS:
            return type(mode).__name__
    return None
