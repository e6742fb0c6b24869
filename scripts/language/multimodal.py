"""What recipes keep of four made-up heads over a prompt of text, a video and text, at one density.

    python -m scripts.language.multimodal --frames 48 --frame-tokens 256 --text 4096

The heads look at the same place of every frame, at one place of every frame, at their own frame, and at
tokens alike wherever they are. They show whether a rule does what it is made for, not what a model loses.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from accel import load_recipe
from accel.patches.context import Context
from accel.policies.parts.head_choice import SampledRows
from accel.sites.sequence.fixed_blocks import with_dense_queries
from scripts.language.methods import solve, turn_of, with_policy
from scripts.page import markdown

RECIPES = ("llm-mminference", "llm-wanted", "llm-xattention", "llm-flexprefill", "llm-vertical-slash")
HEADS = ("same place", "one place", "own frame", "alike anywhere")
DIM, ASKED = 64, 256


def heads(frames: int, frame_tokens: int, text: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys [1, 4, N, D], and which tokens are the video's, bool [1, N]; a tenth of the text is
    before it."""
    generator = torch.Generator().manual_seed(0)
    video, first = frames * frame_tokens, text // 10
    tokens = video + text

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def codes(count: int) -> Tensor:
        return torch.nn.functional.normalize(noise(count, DIM), dim=-1) * DIM**0.5

    vision = torch.zeros(tokens, dtype=torch.bool)
    vision[first : first + video] = True
    place, frame = torch.arange(video) % frame_tokens, torch.arange(video) // frame_tokens
    q, k = 0.5 * noise(2, 4, tokens, DIM)
    of_place, of_frame, one, groups = codes(frame_tokens), codes(frames), codes(1), codes(40)
    alike = torch.randint(40, (tokens,), generator=generator)
    for side in (q, k):
        side[0, vision] += 1.1 * of_place[place]
        side[2, vision] += of_frame[frame]
        side[3] += groups[alike]
    q[1] += 1.1 * one
    k[1, first : first + video][place == frame_tokens // 7] += 1.1 * one
    return q[None], k[None], vision[None]


@torch.no_grad()
def row(name: str, density: float, q: Tensor, k: Tensor, vision: Tensor) -> list[str]:
    """A recipe's name, its density over all heads, and the mass it keeps of each, as shares."""
    recipe = load_recipe(name)
    policy, length = recipe.rules[0].policy, q.shape[2]
    turn = turn_of(policy)
    if turn is not None:
        recipe = solve(lambda knob: with_policy(recipe, turn(policy, knob, length)), density, length)
    layout = recipe.rules[0].policy.layout(q, k, None, Context(vision=vision))
    layout = with_dense_queries(layout, recipe.schedule.dense_queries)
    kept = SampledRows(ASKED).kept(q, k, [layout])[0, 0]
    return [name, f"{float(layout.density):.2f}", *(f"{float(mass) / ASKED:.2f}" for mass in kept)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--frame-tokens", type=int, default=256)
    parser.add_argument("--text", type=int, default=4096)
    parser.add_argument("--density", type=float, default=0.31)
    options = parser.parse_args()
    made_up = heads(options.frames, options.frame_tokens, options.text)
    print(markdown(["recipe", "density", *HEADS], (row(name, options.density, *made_up) for name in RECIPES)))


if __name__ == "__main__":
    main()
