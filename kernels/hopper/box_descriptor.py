"""How TMA addresses the tensors of the Hopper kernels: in boxes of rows and columns of one head."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

TYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16, torch.float8_e4m3fn: gl.float8e4nv}


def box_descriptor(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Addresses a tensor of four axes in boxes of its last two; what lies behind their ends reads as zero."""
    box = [1, 1, rows, columns]
    layout = gl.NVMMASharedLayout.get_default_for(box, TYPES[tensor.dtype])
    # The stride of an axis of length 1 is never used, but has to be a legal one.
    dims = zip(tensor.stride(), tensor.shape, strict=True)
    legal = [tensor.shape[3] if n == 1 and axis < 3 else s for axis, (s, n) in enumerate(dims)]
    return TensorDescriptor(tensor, list(tensor.shape), legal, box, layout)
