"""Random numbers that belong to a position in the training, so that any step can be repeated alone."""

from __future__ import annotations

import hashlib
from enum import Enum

import torch


class Stream(Enum):
    """What random numbers are drawn for; different kinds of stream share none."""

    POOL = "clips the VAE is trained on"
    VAE_STEP = "one step of the VAE"
    LATENTS = "clips the transformer is trained on"
    TRANSFORMER_STEP = "one step of the transformer"
    MEASURED = "clips the trained VAE is measured on"


def seed_for(seed: int, stream: Stream, place: int) -> int:
    """The seed of the `place`-th draw of a stream in a run with `seed`, in [0, 2**32)."""
    text = f"{seed}/{stream.name}/{place}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def generator_for(
    seed: int, stream: Stream, place: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator on `device` at the start of that draw."""
    return torch.Generator(device).manual_seed(seed_for(seed, stream, place))
