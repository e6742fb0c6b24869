"""Repeats: whether a forward is given what the forward before it was given, all but the text.

The two passes of guidance are. Where text enters a model only after its first self-attention, both passes
then compute the same there, bit for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REPEATS = "repeats"
CAPTION = "encoder_hidden_states"
TEXT = frozenset({CAPTION, "encoder_attention_mask", "return_dict"})


@dataclass(frozen=True)
class Inputs:
    """What one forward was given, the version of each tensor then, and apart from these the caption."""

    values: dict[str, Any]
    versions: dict[int, int]
    caption: weakref.ref[Tensor] | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Inputs | None:
        """Of a forward's named arguments; None where a tensor may change unseen, as in inference mode."""
        values = {name: value for name, value in arguments.items() if name not in TEXT}
        tensors = tensors_in(list(values.values()))
        if any(tensor.is_inference() or tensor.is_meta for tensor in tensors):
            return None
        versions = {id(tensor): tensor._version for tensor in tensors}
        caption = arguments.get(CAPTION)
        # Kept alive, it would pass for a pass that is still under way: see `Branches`.
        return cls(values, versions, weakref.ref(caption) if isinstance(caption, Tensor) else None)

    def repeated_by(self, other: Inputs) -> bool:
        """Whether `other` is the same with another caption, and nothing of this was written to since.

        The same caption again is not a second pass of guidance but the same call, or one that is perturbed.

        Other tensors count if their values are equal, which waits for the device: pipelines that convert
        their latents do so once for each pass.
        """
        before, now = self.caption and self.caption(), other.caption and other.caption()
        if before is None or before is now:
            return False
        tensors = tensors_in(list(self.values.values()))
        if any(tensor._version != self.versions[id(tensor)] for tensor in tensors):
            return False
        return self.values.keys() == other.values.keys() and all(
            same(value, other.values[name]) for name, value in self.values.items()
        )


@dataclass(frozen=True)
class Repeats:
    """What a forward has in common with those before it in its generation.

    Args:
        inputs: what it was given; kept until the next forward.
        turn: of the forward.
        now: whether the forward before it, in the same turn, was given the same.
        last: the last turn in which a forward was.
    """

    inputs: Inputs | None
    turn: int
    now: bool
    last: int | None

    @classmethod
    def of(cls, arguments: Mapping[str, Any], turn: int, kept: dict[Hashable, Any]) -> Repeats:
        """Of a forward's named arguments; `kept` is what its generation keeps."""
        before: Repeats | None = kept.get(REPEATS)
        inputs = Inputs.of(arguments)
        now = before is not None and before.turn == turn and repeated(before.inputs, inputs)
        last = turn if now else None if before is None else before.last
        found = kept[REPEATS] = cls(inputs, turn, now, last)
        return found

    def expected(self, counted: bool) -> bool:
        """Whether a forward of the same turn will repeat this one.

        Args:
            counted: whether a scheduler counts the steps. Then the first is taken to have two passes; a lone
                forward of a bare model keeps nothing for a second one that may never come.
        """
        return counted if self.turn == 0 else self.last is not None and self.last >= self.turn - 1


def repeated(before: Inputs | None, now: Inputs | None) -> bool:
    """Whether two forwards are known to be given the same."""
    return before is not None and now is not None and before.repeated_by(now)


def same(a: Any, b: Any) -> bool:
    """Whether two arguments are equal; of kinds that cannot be compared, the very same object."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        return alike and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    return isinstance(a, bool | int | float | str) and type(a) is type(b) and a == b


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of an argument, in lists, tuples and dicts too."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors_in(part)]
    return []
