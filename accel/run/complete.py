"""Complete: continue a prompt greedily, dense or accelerated, and measure it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from accel.accelerate import accelerated, patches_of
from accel.apply.patch import Patch
from accel.mistake import Mistake
from accel.recipe.recipe import DENSE, Recipe


@dataclass(frozen=True)
class Completion:
    """One run.

    Args:
        text: what the model answered, special tokens left out.
        tokens: the same as token ids.
        prompt_tokens: length of the prompt.
        seconds_to_first_token: prompt in, first token on the host: prefill.
        tokens_per_second: of the tokens after the first; None if there is only one.
        patch: the recipe's account; its counts go on living after the model is restored.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    seconds_to_first_token: float
    tokens_per_second: float | None
    patch: Patch


def complete(
    model: Any,
    tokenizer: Any,
    prompt: str,
    recipe: Recipe = DENSE,
    max_new_tokens: int = 16,
    *,
    chat: bool = False,
    show: Callable[[str], None] | None = None,
) -> Completion:
    """Continue a prompt greedily under a recipe, then restore the model.

    A dense run takes the same path, so that both are timed alike.

    Args:
        chat: put the prompt into the tokenizer's chat template, as the user's turn.
        show: is given the text as it comes, a few words at a time.

    Raises:
        Mistake: if the prompt is empty or longer than the model's positions allow.
    """
    from accel.run.token_clock import TokenClock

    if not prompt.strip():
        raise Mistake("the prompt is empty")
    inputs = encoded(tokenizer, prompt, chat).to(model.device)
    length = inputs["input_ids"].shape[1]
    check_length(model, length, max_new_tokens)
    with accelerated(model, recipe), torch.no_grad():
        (patch,) = patches_of(model)
        clock = TokenClock(tokenizer, show)
        output = model.generate(
            **{name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs},
            max_new_tokens=max_new_tokens,
            do_sample=False,
            streamer=clock,
        )
    tokens = tuple(output[0, length:].tolist())
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return Completion(text, tokens, length, clock.seconds_to_first, clock.tokens_per_second, patch)


def encoded(tokenizer: Any, prompt: str, chat: bool) -> Any:
    """Token ids and mask [1, T] of a prompt, or of a chat with only this turn.

    Raises:
        Mistake: if the tokenizer has no chat template.
    """
    if not chat:
        return tokenizer(prompt, return_tensors="pt")
    if not has_chat(tokenizer):
        raise Mistake("the model's tokenizer has no chat template; leave --chat out")
    turn = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )


def has_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer has a template for chats."""
    return bool(getattr(tokenizer, "chat_template", None))


def check_length(model: Any, prompt_tokens: int, new_tokens: int) -> None:
    """Raise a Mistake where a prompt and its answer cannot fit the model's positions."""
    if prompt_tokens < 1:
        raise Mistake("the prompt is empty")
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and prompt_tokens + new_tokens > most:
        raise Mistake(
            f"{prompt_tokens} tokens of prompt and {new_tokens} new ones are more than the {most} "
            "positions of the model"
        )


def agreement(a: Completion, b: Completion) -> float:
    """Share of the longer continuation, from its start, that both have in common, in [0, 1]."""
    same = 0
    for ours, theirs in zip(a.tokens, b.tokens, strict=False):
        if ours != theirs:
            break
        same += 1
    return same / max(len(a.tokens), len(b.tokens))
