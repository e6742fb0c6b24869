"""Samples of attention: q, k, v captured from the embedded video demo, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from accel.load.pipeline import load_pipeline
from accel.patches.context import Context
from accel.patches.diffusers.forwards.clock import Clock
from accel.patches.diffusers.forwards.root_hook import RootHook
from accel.patches.diffusers.install import install
from accel.patches.grid import TokenGrid
from accel.patches.models import find_sites
from accel.patches.noise import Noise
from accel.patches.site import Site
from scripts.quality.prompts import demo_settings, prompt_of

Dense = Callable[[], Tensor]


@dataclass(frozen=True)
class Sample:
    """q, k, v float32 [1, H, N, D] of one attention call.

    Args:
        kind: where it comes from, "demo" or "synthetic".
        prompt: number of the prompt, or of the random seed.
    """

    kind: str
    prompt: int
    q: Tensor
    k: Tensor
    v: Tensor
    context: Context

    @property
    def name(self) -> str:
        of_call = f", layer {self.context.layer}, step {self.context.step}" if self.kind == "demo" else ""
        return f"{self.kind} {self.prompt}{of_call}"


def demo_samples(
    prompts: Iterable[int], layers: tuple[int, ...], steps: tuple[int, ...], folder: Path
) -> Iterator[Sample]:
    """The demo's calls at these layers and steps, conditional pass; captured once, then read back."""
    for number in prompts:
        file = folder / f"demo-{number}.pt"
        if not file.exists():
            found = capture(number, layers, steps)
            torch.save([vars(sample) for sample in found], file)
        with torch.serialization.safe_globals([Context, Noise, TokenGrid]):
            found = [Sample(**fields) for fields in torch.load(file)]
        for layer in layers:
            for step in steps:
                yield next(s for s in found if (s.context.layer, s.context.step) == (layer, step))


def capture(number: int, layers: tuple[int, ...], steps: tuple[int, ...]) -> list[Sample]:
    """What the demo's attention is given in a dense run of a prompt, with the prompt's number as the seed."""
    pipe, found = load_pipeline("demo"), []
    hook = RootHook(Clock(pipe))
    hook.attach(pipe.transformer)
    for site in find_sites(pipe.transformer):
        if site.layer not in layers:
            continue

        def attend(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            mask: Tensor | None,
            dense: Callable[[], Tensor],
            site: Site = site,
        ) -> Tensor:
            forward = hook.forward
            assert forward is not None
            context = replace(forward.context, layer=site.layer, n_layers=site.n_layers)
            if context.step in steps and context.branch == 0:
                found.append(Sample("demo", number, *(heads_first(x) for x in (q, k, v)), context))
            return dense()

        install(pipe.transformer, site, attend)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        pipe(prompt_of(number), **demo_settings(), generator=generator, output_type="latent")
    return found


def heads_first(x: Tensor) -> Tensor:
    """[B, N, H, D] -> float32 [B, H, N, D], a copy."""
    return x.transpose(1, 2).float().contiguous().clone()
