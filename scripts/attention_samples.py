"""Samples of attention: q, k, v captured from the embedded video demo, or synthetic ones of known shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from accel.patches.context import Context
from accel.patches.grid import TokenGrid


@dataclass(frozen=True)
class Sample:
    """q, k, v [1, H, N, D] of one attention call."""

    name: str
    q: Tensor
    k: Tensor
    v: Tensor
    context: Context


def samples(
    demo: bool, synthetic: bool, prompts: int, layers: list[int], steps: list[int], captures: Path | None
) -> Iterator[Sample]:
    if demo:
        found = load_captures(captures)
        for number in range(prompts):
            prefix = f"demo {number},"
            if not any(sample.name.startswith(prefix) for sample in found):
                found += captured(number, prefix)
                if captures is not None:
                    torch.save([vars(sample) for sample in found], captures)
        wanted = [f", layer {layer}, step {step}" for layer in layers for step in steps]
        yield from (
            s for s in found if s.name.endswith(tuple(wanted)) and int(s.name.split()[1][:-1]) < prompts
        )
    if synthetic:
        for grid in (TokenGrid(9, 16, 24), TokenGrid(7, 15, 26)):
            yield structured(grid)


def load_captures(captures: Path | None) -> list[Sample]:
    if captures is None or not captures.exists():
        return []
    with torch.serialization.safe_globals([Context, TokenGrid]):
        return [Sample(**fields) for fields in torch.load(captures)]


def captured(number: int, prefix: str) -> list[Sample]:
    """What the demo's attention is given for a prompt: all layers, steps 2 and 5, the conditional forward."""
    from accel.demo.paths import DEMO_PROMPTS, DEMO_SETTINGS
    from accel.load_pipeline import load_pipeline
    from accel.patches.clock import Clock
    from accel.patches.family import find_sites
    from accel.patches.install import install
    from accel.patches.root_hook import RootHook

    pipe = load_pipeline("demo")
    found: list[Sample] = []
    hook = RootHook(Clock(pipe))
    hook.attach(pipe.transformer)
    for site in find_sites(pipe.transformer):

        def keep(q, k, v, mask, dense, layer=site.layer, n_layers=site.n_layers):
            context = replace(hook.current, layer=layer, n_layers=n_layers)
            if context.step in (2, 5) and context.branch == 0:
                tensors = (x.transpose(1, 2).float().clone() for x in (q, k, v))
                found.append(Sample(f"{prefix} layer {layer}, step {context.step}", *tensors, context))
            return dense()

        install(pipe.transformer, site, keep)
    settings = {key: value for key, value in asdict(DEMO_SETTINGS).items() if key != "fps"}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pipe(DEMO_PROMPTS[number], **settings, generator=generator, output_type="latent")
    return found


def structured(grid: TokenGrid, dim: int = 64) -> Sample:
    """Heads of known shape: local boxes, tubes through time, whole frames, a few keys for all, and noise."""
    generator = torch.Generator().manual_seed(grid.tokens)
    axes = (torch.linspace(0, 1, n) for n in (grid.frames, grid.height, grid.width))
    place = torch.cartesian_prod(*axes)  # [N, 3]
    frequency = torch.randn(3, dim // 2, generator=generator)

    def features(scale: tuple[float, float, float]) -> Tensor:
        phase = 6.28 * (place * torch.tensor(scale)) @ frequency
        return torch.cat([phase.cos(), phase.sin()], dim=1) / (dim // 2) ** 0.5

    sharp, noise = 40.0, torch.randn(2, 5, grid.tokens, dim, generator=generator)
    shapes = [features(s) for s in ((2, 2, 2), (0.3, 3, 3), (4, 0.3, 0.3), (0.5, 0.5, 0.5))]
    q = torch.stack([*shapes, torch.zeros_like(shapes[0])]) * sharp**0.5 * dim**0.25 + noise[0] * 0.5
    k = torch.stack([*shapes, torch.zeros_like(shapes[0])]) * sharp**0.5 * dim**0.25 + noise[1] * 0.5
    k[3, :: grid.tokens // 40] += 3 * q[3].mean(0)
    value = torch.cat([features((1, 1, 1)), torch.randn(grid.tokens, dim, generator=generator) * 0.3], dim=1)
    v = value[:, torch.randperm(2 * dim, generator=generator)[:dim]].expand(5, -1, -1).clone()
    return Sample(f"synthetic {grid}", q[None], k[None], v[None], Context(grid=grid))
