"""A training stage on disk: one safetensors file, replaced in one move, that a later run continues from."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from accel.files import whole_file


def average_of(model: torch.nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a model's parameters, which starts as the model.

    It keeps `decay` of itself at each step, and less in the first steps, so that the start is forgotten.

    Raises:
        ValueError: if the decay is outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")

    def blend(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, count.item() / (9 + count.item())))

    average = AveragedModel(model, multi_avg_fn=blend)
    average.n_averaged.fill_(1)  # at 0 torch would copy the model after its first step
    return average


def unused_checkpoint(path: Path, resume: bool) -> Path:
    """The path, unless there is a checkpoint that nobody asked to continue from.

    Raises:
        FileExistsError: if there is a checkpoint already and `resume` is false.
    """
    if path.exists() and not resume:
        raise FileExistsError(f"{path} exists: continue from it with --resume, or choose another --out")
    return path


def save_checkpoint(
    path: Path,
    model: torch.nn.Module,
    average: AveragedModel,
    optimizers: list[torch.optim.Optimizer],
    facts: dict[str, str],
) -> None:
    """Write parameters, average, optimiser states and `facts`; a crash leaves the old file intact."""
    tensors = {f"model/{name}": param.detach() for name, param in model.named_parameters()}
    tensors |= {f"average/{name}": param.detach() for name, param in average.module.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}/{index}/{key}": value for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata=facts)


@torch.no_grad()
def load_checkpoint(
    path: Path, model: torch.nn.Module, average: AveragedModel, optimizers: list[torch.optim.Optimizer]
) -> dict[str, str]:
    """Put a checkpoint back into the objects it was written from, and return its facts."""
    device = next(model.parameters()).device
    with safe_open(path, "pt", device=str(device)) as file:
        facts = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for owner, module in (("model", model), ("average", average.module)):
        for name, param in module.named_parameters():
            param.copy_(tensors[f"{owner}/{name}"])
    for number, optimizer in enumerate(optimizers):
        optimizer.load_state_dict(
            {
                "state": _optimizer_state(tensors, f"optimizer{number}"),
                "param_groups": optimizer.state_dict()["param_groups"],
            }
        )
    return facts


def _optimizer_state(tensors: dict[str, Tensor], owner: str) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, *rest = name.split("/")
        if first == owner:
            index, key = rest
            # AdamW keeps its step counters on the CPU
            state.setdefault(int(index), {})[key] = tensor.cpu() if key == "step" else tensor
    return state
