"""ModularCase: a real modular pipeline under test, from the layout of its sequence to its last step."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import diffusers
import torch
from torch import Tensor

from pipeline_case import PipelineCase, Size
from tiny_families import CASES


@dataclass(frozen=True)
class ModularCase(PipelineCase):
    """A real modular pipeline under test.

    Args:
        pipeline: the blocks that run from embeddings to latents, with their module.
        steps: of the schedule, as the pipeline counts them.
        schedulers: the names of its schedulers.
        transformer: the name of its transformer.
        output: the name of what it makes, a tensor or a list of them.
    """

    steps: int = 2
    schedulers: tuple[str, ...] = ("scheduler",)
    transformer: str = "transformer"
    output: str = "latents"

    def pipe(self) -> Any:
        module, _, name = self.pipeline.rpartition(".")
        pipe = getattr(import_module(f"diffusers.modular_pipelines.{module}"), name)().init_pipeline()
        kind, config = self.scheduler
        parts = {name: getattr(diffusers, kind)(**config) for name in self.schedulers}
        parts |= {self.transformer: CASES[self.family].model(**self.config), **self.components()}
        pipe.update_components(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: Any, size: Size, **changes: Any) -> Tensor:
        arguments = {**self.call(size, self.prompts), "num_inference_steps": self.steps, **changes}
        made = pipe(**arguments, generator=torch.Generator().manual_seed(0), output=self.output)
        return torch.cat(made, dim=2) if isinstance(made, list) else made
