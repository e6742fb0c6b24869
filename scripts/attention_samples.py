"""Samples of attention: q, k, v captured from the embedded video demo, prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from accel.demo.paths import DEMO_SETTINGS
from accel.load_pipeline import load_pipeline
from accel.patches.clock import Clock
from accel.patches.context import Context
from accel.patches.family import find_sites
from accel.patches.grid import TokenGrid
from accel.patches.install import install
from accel.patches.root_hook import RootHook
from policy_prompts import prompt_of


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
        with torch.serialization.safe_globals([Context, TokenGrid]):
            found = [Sample(**fields) for fields in torch.load(file)]
        for layer in layers:
            for step in steps:
                yield next(s for s in found if (s.context.layer, s.context.step) == (layer, step))


def capture(number: int, layers: tuple[int, ...], steps: tuple[int, ...]) -> list[Sample]:
    """What the demo's attention is given in a dense run of a prompt, with the prompt's number as seed."""
    pipe = load_pipeline("demo")
    found: list[Sample] = []
    hook = RootHook(Clock(pipe))
    hook.attach(pipe.transformer)
    for site in find_sites(pipe.transformer):

        def keep(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            mask: Tensor | None,
            dense: Callable[[], Tensor],
            layer: int = site.layer,
            n_layers: int = site.n_layers,
        ) -> Tensor:
            assert hook.current is not None
            context = replace(hook.current, layer=layer, n_layers=n_layers)
            if layer in layers and context.step in steps and context.branch == 0:
                q, k, v = (x.transpose(1, 2).float().contiguous().clone() for x in (q, k, v))
                found.append(Sample("demo", number, q, k, v, context))
            return dense()

        install(pipe.transformer, site, keep)
    settings = {key: value for key, value in asdict(DEMO_SETTINGS).items() if key != "fps"}
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        pipe(prompt_of(number), **settings, generator=generator, output_type="latent")
    return found
