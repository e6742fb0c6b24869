"""A training stage on disk: one safetensors file, replaced in one move, that a later run goes on from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from accel.files import whole_file
from scripts.training.video.average import Average


def save_checkpoint(
    path: Path,
    model: torch.nn.Module,
    average: Average,
    optimizers: list[torch.optim.Optimizer],
    facts: dict[str, str],
) -> None:
    """Write parameters, average, optimiser states and `facts`; a crash leaves the old file whole."""
    tensors = {f"model/{name}": param.detach() for name, param in model.named_parameters()}
    tensors |= {f"average/{name}": value for name, value in average.values.items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}/{index}/{key}": value for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata=facts)


@torch.no_grad()
def load_checkpoint(
    path: Path, model: torch.nn.Module, average: Average, optimizers: list[torch.optim.Optimizer]
) -> dict[str, str]:
    """Put a checkpoint back into the objects it was written from, and return its facts."""
    device = next(model.parameters()).device
    with safe_open(path, "pt", device=str(device)) as file:
        facts = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, param in model.named_parameters():
        param.copy_(tensors[f"model/{name}"])
        average.values[name].copy_(tensors[f"average/{name}"])
    for number, optimizer in enumerate(optimizers):
        optimizer.load_state_dict(
            {
                "state": _optimizer_state(tensors, f"optimizer{number}"),
                "param_groups": optimizer.state_dict()["param_groups"],
            }
        )
    return facts


def read_facts(path: Path) -> dict[str, str]:
    """The facts a checkpoint was written with, without reading its tensors."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def _optimizer_state(tensors: dict[str, Tensor], owner: str) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, *rest = name.split("/")
        if first == owner:
            index, key = rest
            # AdamW keeps its step counters on the CPU
            state.setdefault(int(index), {})[key] = tensor.cpu() if key == "step" else tensor
    return state
