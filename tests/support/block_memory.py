"""Peak memory of one Wan block, dense and accelerated: on the CPU, or at full size without numbers.

`python tests/support/block_memory.py` prints the table of docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

import accel.sites.grid.grid_attention
import accel.sites.grid.residual
import accel.sites.site_attention
from accel import accelerate_model, restore_model
from accel.accelerate import patches_of
from accel.kernels.layout.layout import BlockLayout
from memory_meter import peak_bytes

ALL_SPARSE = {"min_tokens": 0, "dense_steps": 0, "dense_layers": 0}
FULL_SIZE: dict[str, Any] = {"num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824}
TEXT: dict[str, Any] = {"text_dim": 16, "freq_dim": 16}


def wan_block(device: str, dtype: torch.dtype, **size: Any) -> WanTransformer3DModel:
    """A Wan model of one block; only what surrounds the block is small."""
    with torch.device(device):
        model = WanTransformer3DModel(num_layers=1, in_channels=4, out_channels=4, **{**TEXT, **size})
    return model.to(dtype).eval().requires_grad_(False)


def inputs(model: WanTransformer3DModel, frames: int, height: int, width: int) -> dict[str, Any]:
    """Arguments of a forward over that many frames, rows and columns of tokens."""
    like = {"device": model.device, "dtype": model.dtype}
    return {
        "hidden_states": torch.randn(1, 4, frames, 2 * height, 2 * width, **like),
        "timestep": torch.full((1,), 500.0, device=model.device),
        "encoder_hidden_states": torch.randn(1, 7, 16, **like),
        "return_dict": False,
    }


@torch.no_grad()
def peaks(model: WanTransformer3DModel, arguments: dict[str, Any], recipes: list[str]) -> dict[str, int]:
    """Bytes at the peak of a forward beyond its weights and inputs, "dense" and by recipe."""
    found = {"dense": peak_bytes(lambda: model(**arguments))}
    for name in recipes:
        accelerate_model(model, name, **ALL_SPARSE)
        model(**arguments)  # what is made once for a grid and kept is not the peak's
        found[name] = peak_bytes(lambda: model(**arguments))
        assert not patches_of(model)[0].installed[0].attention.record.dense
        restore_model(model)
    return found


def full_size_peaks(
    recipes: list[str], grid: tuple[int, int, int] = (21, 45, 80)
) -> tuple[dict[str, int], int]:
    """The same of a block of Wan 14B in bfloat16 at 720p on the meta device, and the bytes of its queries.

    Planning is real; attention is what every kernel at least holds: its output, the LSE, and permuted
    copies where the layout has an order.
    """
    model = wan_block("meta", torch.bfloat16, **FULL_SIZE)
    arguments = inputs(model, *grid)
    with planned_without_numbers():
        accelerate_model(model, "radial", **ALL_SPARSE)
        with patch("accel.sites.grid.grid_attention.GridAttention.__call__", output_only), torch.no_grad():
            found = {"dense": peak_bytes(lambda: model(**arguments))}
        found |= {name: peak for name, peak in peaks(model, arguments, recipes).items() if name != "dense"}
    tokens = grid[0] * grid[1] * grid[2]
    return found, 2 * tokens * 40 * 128


def output_only(self: Any, q: Tensor, *rest: Any) -> Tensor:
    """Dense attention as fused kernels hold it: an output and the LSE."""
    self.record.count_dense("measured", None)
    q.new_empty(q.shape[:3], dtype=torch.float32)
    return torch.empty_like(q)


@contextmanager
def planned_without_numbers() -> Iterator[None]:
    """Let the meta device be planned for, with a stand-in for the kernel."""

    def stand_in(
        q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, scale: None = None, precision: None = None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = layout.to_block_order(q, k, v)
        lse = q.new_empty(q.shape[:3], dtype=torch.float32)
        return layout.to_sequence_order(torch.empty_like(q)), lse

    with (
        patch.object(accel.sites.site_attention, "cannot_run", lambda *_: None),
        patch.object(accel.sites.grid.grid_attention, "attention_with_lse", stand_in),
        patch.object(accel.sites.grid.residual, "attention_with_lse", stand_in),
    ):
        yield


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    names = ["radial", "draft", "auto", "permuted", "xattention", "blade-asa", "spargeattn", "pisa", "nabla"]
    small = wan_block("cpu", torch.float32, num_attention_heads=4, attention_head_dim=64, ffn_dim=1536)
    measured = peaks(small, inputs(small, 13, 18, 20), [*names, "hip"])
    full, queries = full_size_peaks(names)
    print("| recipe | CPU, 4,680 tokens | 14B, 75,600 tokens | beyond dense, in queries |\n|---|---|---|---|")
    for name, peak in measured.items():
        at_size = f"{full[name] / 2**30:.2f} GiB ({full[name] / full['dense']:.3f})" if name in full else "-"
        beyond = f"{(full[name] - full['dense']) / queries:.2f}" if name in full else "-"
        print(f"| {name} | {peak / 2**20:.1f} MiB ({peak / measured['dense']:.3f}) | {at_size} | {beyond} |")
