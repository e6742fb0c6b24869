"""A backend of diffusers' dispatcher for dense calls: one that is named, or the fastest that agrees.

Only the slots of accelerated processors ask it: neither the process-wide backend nor any other model's is
touched, and it is removed with them.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from accel.patches.observers import is_differentiated, recorder
from accel.patches.slot import DenseFn

if TYPE_CHECKING:
    from diffusers.models.attention_dispatch import AttentionBackendName

AUTO = "auto"
# What `auto` times, by device, if its requirements are met; backends that round to int8 never agree.
CANDIDATES = {
    "cuda": ("_native_cudnn", "_native_flash", "flash", "_flash_3", "xformers"),
    "cpu": ("_native_flash",),
}
TOLERANCE = 0.01  # relative error against what the model would have run; bfloat16 itself has 0.003
PAYS_OFF_BELOW = 0.97  # of the time of what the model would have run
SECONDS = 0.1  # of timing for each candidate


def _dispatcher() -> Any:
    """diffusers' own; imported at its first use: language models know no diffusers."""
    from diffusers.models import attention_dispatch

    return attention_dispatch


def backend_names() -> list[str]:
    """Every name that a recipe can use."""
    return [AUTO, *(name.value for name in _dispatcher().AttentionBackendName)]


def require_backend(name: str) -> None:
    """Refuse a backend that is not installed.

    Raises:
        ValueError: if it needs a package or a device that is missing.
    """
    if name == AUTO:
        return
    try:
        dispatcher = _dispatcher()
        dispatcher._check_attention_backend_requirements(dispatcher.AttentionBackendName(name))
    except (RuntimeError, ImportError) as error:
        raise ValueError(str(error)) from error


class DenseBackend:
    """Which backend dense calls run on; the slots of one accelerated pipeline share it.

    Args:
        name: of diffusers' dispatcher, or `auto`: for every shape the fastest of the candidates that are
            installed, timed once on the first real queries of that shape, if it agrees within `TOLERANCE`
            and is faster than `PAYS_OFF_BELOW`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.chosen: dict[tuple, AttentionBackendName | None] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["name"])  # type: ignore[misc]

    def __call__(self, stock: DenseFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of a call without a mask; if the backend fails, `stock` runs, and a warning says so.

        `stock` also runs where gradients are recorded, since some backends have none, and where a call is
        recorded for other inputs: nothing can be timed there.
        """
        if is_differentiated(q, k, v) or recorder():
            return stock(q, k, v, None)
        key = (tuple(q.shape), tuple(k.shape), q.dtype, q.device.type)
        with self._lock:
            if key not in self.chosen:
                self.chosen[key] = self._choose(stock, q, k, v)
            backend = self.chosen[key]
        if backend is None:
            return stock(q, k, v, None)
        try:
            return _run(backend, q, k, v)
        except Exception as error:
            with self._lock:
                self.chosen[key] = None
            warnings.warn(
                f"dense_backend {backend.value!r} failed and is not used for calls like this one again: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
            return stock(q, k, v, None)

    def label(self, stock: str) -> str:
        """What dense calls run on, for people."""
        used = sorted({name.value for name in list(self.chosen.values()) if name is not None})
        if not used:
            return stock if self.chosen or self.name == AUTO else f"diffusers' {self.name}"
        return f"diffusers' {', '.join(used)}{' (timed)' if self.name == AUTO else ''}"

    def _choose(self, stock: DenseFn, q: Tensor, k: Tensor, v: Tensor) -> AttentionBackendName | None:
        if self.name != AUTO:
            return _dispatcher().AttentionBackendName(self.name)
        expected = stock(q, k, v, None).float()
        fastest, least = None, PAYS_OFF_BELOW * _seconds(lambda: stock(q, k, v, None))
        for name in CANDIDATES.get(q.device.type, ()):
            try:
                require_backend(name)
                backend = _dispatcher().AttentionBackendName(name)
                error = (_run(backend, q, k, v).float() - expected).norm() / expected.norm()
                if not error <= TOLERANCE:
                    continue
                seconds = _seconds(lambda: _run(backend, q, k, v))  # noqa: B023 - timed at once
            except Exception:  # One that cannot run this call is out.
                continue
            if seconds < least:
                fastest, least = backend, seconds
        return fastest


def _run(backend: AttentionBackendName, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _dispatcher().dispatch_attention_fn(q, k, v, enable_gqa=q.shape[2] != k.shape[2], backend=backend)


def _seconds(run: Any) -> float:
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=SECONDS).median
