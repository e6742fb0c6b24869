"""Train needle-llama, the embedded language model, from scratch or from given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import LlamaForCausalLM

from accel.demo.needle import NeedleTask
from scripts.training.budget import Budget
from scripts.training.checkpoint import unused_checkpoint
from scripts.training.language.stage import NeedleStage, Settings
from scripts.training.loop import train
from scripts.training.whole_folder import replace_folder


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM, length: int, pairs: int, prompts: int = 16, queries: int = 1, seed: int = 1
) -> dict[str, float]:
    """Accuracy of greedy answers, in [0, 1]: of all, and by the quarter of the body their needle lies in.

    Args:
        prompts: sequences drawn, one forward pass each.
        queries: values asked for in each; earlier questions are followed by their answers.

    Returns:
        "all" and "depth 0/4" to "depth 3/4"; NaN for a quarter without a needle.
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


def main(
    out: Annotated[Path, typer.Option(help="folder for the checkpoint and, in OUT/model, the model")],
    minutes: Annotated[float | None, typer.Option(help="wall-clock budget")] = None,
    steps: Annotated[int | None, typer.Option(help="budget in updates, instead of minutes")] = None,
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
    every: Annotated[int, typer.Option(help="updates between reports, each with the model so far")] = 200,
) -> None:
    """Train until the budget is spent."""
    settings = Settings(
        lengths=tuple(int(length) for length in lengths.split(",")),
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        bf16=bf16,
        seed=seed,
    )
    stage = NeedleStage(settings, init, device)

    def report(step: int, loss: Tensor) -> None:
        """Write the model and print its accuracy at length 512 with 4 and with 32 pairs."""
        if step % every:
            return
        replace_folder(out / "model", stage.model.save_pretrained)
        scores = [f"512/{k} {evaluate(stage.model, 512, k, 16, k)['all']:.3f}" for k in (4, 32)]
        typer.echo(f"step {step}, loss {loss.item():.3f}, {stage.curriculum}: {', '.join(scores)}")

    checkpoint = unused_checkpoint(out / "state.safetensors", resume)
    train(stage, Budget(minutes, steps), checkpoint, on_step=report)
    replace_folder(out / "model", stage.model.save_pretrained)


if __name__ == "__main__":
    typer.run(main)
