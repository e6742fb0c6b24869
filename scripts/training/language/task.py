"""The needle task as prompt files and for training: the tokenizer, batches."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from accel.demo.needle import BOS, EOS, FILLERS, KEYS, PAD, NeedleTask, needle_prompt
from scripts.training.tokenizer import word_tokenizer

MODEL = Path(__file__).parents[3] / "accel" / "demo" / "needle-llama"
SEGMENT = 16  # tokens of a copied segment
UNKNOWN = "something"  # every word the model does not know is read as this filler


@dataclass(frozen=True)
class Batch:
    """Training sequences: tokens and positions, int64 [B, L], and which tokens to predict, bool [B, L]."""

    tokens: Tensor
    positions: Tensor
    scored: Tensor

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.tokens.to(device), self.positions.to(device), self.scored.to(device))


def needles(length: int, rows: int, pairs: list[int], span: int, generator: torch.Generator) -> Batch:
    """Needle sequences that ask for every pair, each row with a number of pairs drawn from `pairs`.

    Half of the rows have their positions stretched towards `span`, so that short sequences also teach long
    distances (arXiv 2309.10400).
    """
    tokens, positions, scored = [], [], torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        count = pairs[int(torch.randint(len(pairs), (), generator=generator))]
        task = NeedleTask(length, count, count)
        tokens.append(task.sample(generator)[0])
        positions.append(stretched_positions(tokens[-1], span if row % 2 else length, generator))
        scored[row, task.answers] = True
    return Batch(torch.stack(tokens), torch.stack(positions), scored)


def stretched_positions(tokens: Tensor, span: int, generator: torch.Generator, jumps: int = 8) -> Tensor:
    """Ascending positions [L] below `span`, with random jumps that never part a key from its value."""
    room = int(torch.randint(max(1, span - len(tokens) + 1), (), generator=generator))
    fillers = (tokens >= FILLERS.start).nonzero().flatten()
    steps = torch.ones_like(tokens)
    steps[0] = 0
    if room and len(fillers):
        cuts = torch.rand(jumps, generator=generator)
        sizes = (cuts / cuts.sum() * room).long()
        at = fillers[torch.randint(len(fillers), (jumps,), generator=generator)]
        steps.index_add_(0, at, sizes)
    return steps.cumsum(0)


def copied_segments(length: int, rows: int, generator: torch.Generator) -> Batch:
    """Random tokens in which one segment occurs twice, at random places; scored on its second copy.

    The distance between the copies differs by row: with a fixed one the model learns the distance instead.
    """
    tokens = torch.randint(KEYS.start, FILLERS.stop, (rows, length), generator=generator)
    scored = torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        first, gap = torch.rand(2, generator=generator).tolist()
        spare = length - 2 * SEGMENT
        start = int(first * (spare + 1))
        again = start + SEGMENT + int(gap * (spare - start + 1))
        tokens[row, again : again + SEGMENT] = tokens[row, start : start + SEGMENT]
        scored[row, again + 1 : again + SEGMENT] = True
    positions = torch.arange(length).expand(rows, length)
    return Batch(tokens, positions, scored)


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """One token a word, its id the word's place in `words`; lower-cased, a bos in front."""
    special = {"pad_token": words[PAD], "bos_token": words[BOS], "eos_token": words[EOS]}
    return word_tokenizer(words, f"{words[BOS]} $A", UNKNOWN, model_max_length=32768, **special)


app = typer.Typer(help=__doc__)


@app.command()
def prompt(
    out: Annotated[Path, typer.Argument(help="text file to write")],
    length: Annotated[int, typer.Option(help="tokens, the answer included")] = 4096,
    pairs: Annotated[int, typer.Option(help="needles hidden in the text")] = 4,
    seed: int = 0,
) -> None:
    """Write a prompt file and print its answer."""
    text, answer = needle_prompt(PreTrainedTokenizerFast.from_pretrained(MODEL), length, pairs, seed)
    out.write_text(textwrap.fill(text, 100) + "\n", encoding="utf-8")
    typer.echo(answer)


@app.command()
def pack(
    model: Annotated[Path, typer.Argument(help="folder of trained weights")],
    out: Annotated[Path, typer.Argument(help="folder to write to")] = MODEL,
) -> None:
    """Write the weights in bfloat16 with one-word greedy generation and the tokenizer of words.txt."""
    llama = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    llama.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=1
    )
    llama.save_pretrained(out)
    build_tokenizer((MODEL / "words.txt").read_text(encoding="utf-8").split()).save_pretrained(out)


if __name__ == "__main__":
    app()
