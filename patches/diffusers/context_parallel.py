"""ContextParallel: how one model's sequence is spread over processes, read from diffusers' own set-up.

With Ulysses (arXiv 2309.14509) every process holds, inside attention, all tokens of a share of the heads.
What it takes to plan for them is the order in which the tokens arrive, and which heads they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from accel.patches.grid import TokenGrid
from accel.patches.head_share import HeadShare

TEXT_ARGUMENT = "encoder_hidden_states"
SPLIT_HOOK = "cp_input---"


@dataclass(frozen=True)
class ContextParallel:
    """One model's parallel set-up.

    Args:
        config: diffusers' `ContextParallelConfig`, set up.
        text_apart: whether text and video tokens are split over the processes separately.
        own_plan: whether the model splits its inputs by the plan that diffusers ships with it.
    """

    config: Any
    text_apart: bool
    own_plan: bool

    def unsupported(self, grid: TokenGrid | None) -> str | None:
        """Why attention over these tokens stays dense, or None."""
        if self.config.ring_degree > 1:
            return "ring attention shows each process only part of the tokens"
        if grid is None or grid.tokens == grid.video_tokens:
            return None
        if not self.own_plan or (self.text_apart and (grid.lead_tokens or grid.tail_tokens)):
            return "text and video are split by a plan that is not diffusers' own"
        return None

    def heads(self, total: int) -> HeadShare | None:
        """This process's share of a layer's heads; None where heads are not shared."""
        if self.config.ulysses_degree == 1:
            return None
        group = self.config._ulysses_mesh.get_group()
        return HeadShare(total, self.config.ulysses_degree, self.config._ulysses_local_rank, group)

    def arrival(self, grid: TokenGrid, device: torch.device) -> Tensor | None:
        """Int64 [N]: where each token of the grid is in the gathered sequence; None where all are in
        their place."""
        if not self.text_apart or not grid.text_tokens:
            return None
        return arrival_of_text_apart(grid, self.config.ulysses_degree, device)


@lru_cache(maxsize=16)
def arrival_of_text_apart(grid: TokenGrid, ranks: int, device: torch.device) -> Tensor:
    """As `ContextParallel.arrival`: each process brings its share of the text and its share of the video, in
    the order the model joins them."""
    text, video = torch.arange(grid.text_tokens), torch.arange(grid.video_tokens)
    first, second = (text, video + len(text)) if grid.text_first else (video, text + len(video))
    shares = zip(first.tensor_split(ranks), second.tensor_split(ranks), strict=True)
    gathered = torch.cat([part for pair in shares for part in pair])
    return gathered.argsort().to(device)


def context_parallel_of(model: nn.Module) -> ContextParallel | None:
    """The set-up of a model whose `enable_parallelism` was called; None where one process has it all."""
    config = getattr(getattr(model, "_parallel_config", None), "context_parallel_config", None)
    if config is None:
        return None
    plan: dict[str, Any] = getattr(type(model), "_cp_plan", None) or {}
    splits = {module: split for module, split in plan.items() if isinstance(split, dict)}
    found = splits_in_force(model)
    text_apart = any(TEXT_ARGUMENT in split for split in found.values())
    return ContextParallel(config, text_apart, own_plan=found == splits)


def splits_in_force(model: nn.Module) -> dict[str, Any]:
    """What `enable_parallelism` splits at the entry of which modules, as its plan was written."""
    registries = [getattr(module, "_diffusers_hook", None) for module in model.modules()]
    hooks = [item for registry in registries if registry is not None for item in registry.hooks.items()]
    return {
        name.removeprefix(SPLIT_HOOK): hook.metadata for name, hook in hooks if name.startswith(SPLIT_HOOK)
    }
