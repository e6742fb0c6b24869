"""Layer skip: diffusers looks processors up by class to perturb or skip them, for some kinds of guidance."""

from __future__ import annotations

from diffusers.hooks._helpers import AttentionProcessorRegistry


def introduce(seated: type, stock: type) -> None:
    """Let diffusers skip a processor as it skips the stock one; does nothing where it cannot skip that."""
    try:
        metadata = AttentionProcessorRegistry.get(stock)
    except ValueError:
        return
    AttentionProcessorRegistry.register(seated, metadata)
