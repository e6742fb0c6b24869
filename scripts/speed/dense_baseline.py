"""The dense attention that sparse attention is compared with: cuDNN on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

IN_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def best_dense(device: torch.device | str) -> AbstractContextManager:
    """Make whole models use cuDNN for the calls it can take, then FlashAttention-2."""
    on_gpu = torch.device(device).type == "cuda"
    return sdpa_kernel(IN_ORDER, set_priority=True) if on_gpu else nullcontext()


def dense_backend(device: torch.device) -> str:
    """The backend of causal attention with grouped heads under `best_dense`."""
    if device.type != "cuda":
        return "SDPA"
    q, k = (torch.randn(1, heads, 256, 128, device=device, dtype=torch.bfloat16) for heads in (32, 8))
    try:
        _cudnn(q, k, k, True, True)
    except RuntimeError:
        return "another than cuDNN"
    return "cuDNN"


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False
) -> tuple[str, Callable[[], Tensor]]:
    """Its name and the call, which has run once. On a GPU the default can be half as fast as cuDNN, which
    would flatter the sparse kernel; without grouped heads in cuDNN, keys and values are repeated before."""
    grouped = q.shape[1] != k.shape[1]
    if not q.is_cuda:
        call = partial(scaled_dot_product_attention, q, k, v, is_causal=causal, enable_gqa=grouped)
        return "SDPA", call
    try:
        name, call = "cuDNN", partial(_cudnn, q, k, v, causal, grouped)
        call()
    except RuntimeError:
        if not grouped:
            raise
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        name, call = "cuDNN, heads repeated", partial(_cudnn, q, k, v, causal, False)
        call()
    return name, call


def _cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool, grouped: bool) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
