"""Kernel cases, shared or run in their own process: Triton reads `TRITON_INTERPRET` when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def run_cases(cases: Path, **environment: str) -> None:
    """Run a file of tests under an environment; it must pass whole, with none left out."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(cases)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not {"skipped", "deselected"} & set(done.stdout.split()), done.stdout


def captured(call: Callable[[], Tensor]) -> Tensor:
    """What a call gives when it is captured in a CUDA graph and replayed; it has run before."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    graph.replay()
    return out


# Problems for the Hopper kernels in the emulator.
EMULATED = {
    "plain": {},
    "full": {"density": 1.0, "kv_heads": 4},
    "shared-lists": {"shared_lists": True},
    "cross": {"q_len": 130, "kv_len": 333},
    "one-block": {"q_len": 5, "kv_len": 9},
    "long": {"kv_len": 1500, "density": 0.7, "dim": 128},
    "empty-row": {"empty_row": True},
    "causal": {"causal": True, "q_len": 203, "kv_len": 700, "density": 0.8},
    "causal-more-queries": {"causal": True, "q_len": 203, "kv_len": 100},
    "padded": {"kv_lengths": (203, 77)},
    "all-padding": {"kv_lengths": (150, 0)},
    "order-per-head": {"order": "heads"},
}
