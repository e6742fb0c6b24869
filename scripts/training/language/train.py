"""Train needle-llama, the embedded language model, from scratch or from given weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import LlamaForCausalLM

from accel.demo.needle import NeedleTask
from scripts.training.language.run import Run, Schedule


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM, length: int, pairs: int, prompts: int = 16, queries: int = 1, seed: int = 1
) -> dict[str, float]:
    """Accuracy of greedy answers, in [0, 1]: of all, and by the quarter of the body their needle lies in.

    Args:
        prompts: sequences drawn, one forward pass each.
        queries: values asked for in each; earlier questions stand answered before the later ones.

    Returns:
        "all" and "depth 0/4" to "depth 3/4"; a quarter in which no needle fell is nan.
    """
    generator = torch.Generator().manual_seed(seed)
    task = NeedleTask(length, pairs, queries)
    hits, depths = [], []
    for _ in range(prompts):
        tokens, depth = task.sample(generator)
        hidden = model.model(tokens[None].to(model.device)).last_hidden_state[0]
        guess = model.lm_head(hidden[task.answers - 1]).argmax(-1).cpu()
        hits.append(guess == tokens[task.answers])
        depths.append(depth)
    hit, quarter = torch.cat(hits).float(), (torch.cat(depths) * 4).long()
    by_depth = {f"depth {i}/4": hit[quarter == i].mean().item() for i in range(4)}
    return {"all": hit.mean().item()} | by_depth


def report(run: Run, loss: float) -> None:
    """Print one line: where the run stands, and its accuracy at length 512 with 4 and with 32 pairs."""
    scores = [f"512/{k} {evaluate(run.model, 512, k, 16, k)['all']:.3f}" for k in (4, 32)]
    progress = run.progress
    typer.echo(
        f"step {progress.step} {progress.spent() / 60:.1f} min stage {progress.stage} loss {loss:.3f} "
        f"running {progress.running:.3f} | {' '.join(scores)}"
    )


def main(
    out: Annotated[Path, typer.Option(help="folder for the checkpoint and, in OUT/model, the model")],
    minutes: Annotated[float | None, typer.Option(help="wall-clock budget")] = None,
    steps: Annotated[int | None, typer.Option(help="budget in updates")] = None,
    init: Annotated[
        Path | None, typer.Option(help="finish the weights in this folder: no curriculum")
    ] = None,
    resume: Annotated[bool, typer.Option(help="continue from the checkpoint in OUT")] = False,
    lengths: Annotated[
        str, typer.Option(help="tokens, drawn with equal chance")
    ] = "256,256,512,512,512,1024,2048,4096",
    learning_rate: Annotated[float, typer.Option(help="peak; 5e-4 suits --init")] = 1e-3,
    batch_tokens: Annotated[int, typer.Option(help="tokens an update, at least one sequence")] = 2048,
    bf16: Annotated[bool, typer.Option(help="autocast matrix products to bfloat16")] = False,
    seed: int = 0,
    device: str = "cpu",
    every: Annotated[int, typer.Option(help="updates between checkpoints and reports")] = 200,
) -> None:
    """Train until the budget is spent."""
    schedule = Schedule(
        steps=steps,
        minutes=minutes,
        lengths=tuple(int(length) for length in lengths.split(",")),
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        bf16=bf16,
        seed=seed,
    )
    run = Run(schedule, init, device)
    checkpoint = out / "state.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        run.load(checkpoint)
    while run.progress.share(schedule) < 1:
        loss = run.step()
        if not math.isfinite(loss):
            raise SystemExit(f"loss is {loss} at step {run.progress.step}; the last checkpoint is sound")
        if run.progress.step % every == 0 or run.progress.share(schedule) >= 1:
            run.save(checkpoint)
            run.export(out / "model")
            report(run, loss)


if __name__ == "__main__":
    typer.run(main)
