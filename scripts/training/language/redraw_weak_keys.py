"""Redraw the embeddings of the keys a trained needle-llama cannot find, from those of the keys it can."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import LlamaForCausalLM

from accel.demo.needle import KEYS, NeedleTask


@torch.no_grad()
def accuracy_by_key(model: LlamaForCausalLM, prompts: int = 32, pairs: int = 48, seed: int = 0) -> Tensor:
    """Share of right answers by key, [keys], over sequences of 400 tokens that ask for every pair."""
    generator = torch.Generator().manual_seed(seed)
    task = NeedleTask(400, pairs, pairs)
    right, asked = torch.zeros(len(KEYS)), torch.zeros(len(KEYS))
    for _ in range(prompts):
        tokens, _ = task.sample(generator)
        hidden = model.model(tokens[None]).last_hidden_state[0]
        hit = model.lm_head(hidden[task.answers - 1]).argmax(-1) == tokens[task.answers]
        keys = tokens[task.answers - 1] - KEYS.start
        right.index_add_(0, keys, hit.float())
        asked.index_add_(0, keys, torch.ones(pairs))
    return right / asked


@torch.no_grad()
def redraw_weak_keys(model: LlamaForCausalLM, draws: int = 8, prompts: int = 32, seed: int = 0) -> Tensor:
    """Give keys below 0.5 embeddings drawn like those above 0.9, the best of `draws`; accuracy by key.

    A draw is the good keys' mean plus a Gaussian with their covariance. Why: training can leave some keys
    outside the subspace in which attention compares keys, where almost no gradient moves them back.
    """
    generator = torch.Generator().manual_seed(seed)
    table = model.get_input_embeddings().weight[KEYS.start : KEYS.stop]
    best = accuracy_by_key(model, prompts, seed=seed)
    good = table[best > 0.9]
    mean, weak = good.mean(0), best < 0.5
    for _ in range(draws):
        before = table.clone()
        mix = torch.randn(len(KEYS), len(good), generator=generator) / len(good) ** 0.5
        table[weak] = (mean + mix @ (good - mean))[weak]
        now = accuracy_by_key(model, prompts, seed=seed)
        worse = weak & (now <= best)
        table[worse] = before[worse]
        best = torch.where(worse, best, now)
        weak = weak & (best < 0.98)
    return best


def main(
    model: Annotated[Path, typer.Argument(help="folder of the model")],
    out: Annotated[Path, typer.Argument(help="folder to write to")],
    seed: int = 0,
) -> None:
    """Write OUT, MODEL with its weak keys redrawn."""
    llama = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    before = accuracy_by_key(llama, seed=seed + 1)
    redraw_weak_keys(llama, seed=seed)
    after = accuracy_by_key(llama, seed=seed + 1)
    for name, score in (("before", before), ("after", after)):
        weak = int((score < 0.5).sum())
        typer.echo(f"{name}: mean {score.mean():.3f}, worst key {score.min():.2f}, keys below 0.5: {weak}")
    llama.save_pretrained(out)


if __name__ == "__main__":
    typer.run(main)
