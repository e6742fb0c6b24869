"""SequenceDecode: sparse attention of single tokens, or a few, after a long cache in one layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from accel.kernels.decode.attention import decode_attention
from accel.kernels.layout.layout import BlockLayout
from accel.machine.crossover import decode_pays, floor_power_of_two
from accel.patches.transformers.call import SequenceCall
from accel.policies.decode.memory import DecodeMemory
from accel.policies.decode.search import DecodeSearch
from accel.policies.policy import Policy
from accel.recipe.schedule import Schedule
from accel.sites.sequence.pays_off import SLOWER

MOST_QUERIES = 8
COVERED = "the decode budget covers the cache"


class SequenceDecode:
    """Chooses and reads keys for the tokens that a layer decodes.

    Masks are honoured exactly and never read on the host, so padding on either side, static caches and
    captured graphs are all served.

    Args:
        policy: says how in its field `decode`, if it has one.
        schedule: whether decoding is to be sparse.
    """

    def __init__(self, policy: Policy, schedule: Schedule) -> None:
        self.search: DecodeSearch | None = getattr(policy, "decode", None)
        self.wanted = schedule.sparse_decode
        self.measured = schedule.min_tokens is None
        self._pays: dict[tuple[Any, ...], bool] = {}

    def takes(self, call: SequenceCall) -> bool:
        """Whether a call is decoding, and this policy has its own way to."""
        if not self.wanted or self.search is None:
            return False
        return call.q.shape[2] <= MOST_QUERIES and not isinstance(call.visible_keys(), str)

    def dense_reason(self, call: SequenceCall) -> str | None:
        """Why a decoding call is better dense; the first call of a length measures it."""
        assert self.search is not None
        if call.k.shape[2] <= self.search.most_keys:
            return COVERED
        if not self.measured:
            return None
        # Looked up once per length, since every token needs it.
        key = (floor_power_of_two(call.k.shape[2]), call.q.shape, call.q.dtype, call.q.device)
        if key not in self._pays:
            self._pays[key] = decode_pays(call.q, call.k, self.search)
        return None if self._pays[key] else SLOWER

    def plan(self, call: SequenceCall, memory: DecodeMemory) -> BlockLayout:
        """The lists of key blocks.

        Args:
            memory: of the call's request; changed.
        """
        visible = call.visible_keys()
        assert self.search is not None and not isinstance(visible, str)
        return self.search.layout(call.scaled_q, call.k, visible, memory)

    def attend(self, call: SequenceCall, layout: BlockLayout) -> tuple[Tensor, Tensor]:
        """Out [B, H, M, D] and the LSE [B, H, M]."""
        visible = call.visible_keys()
        assert not isinstance(visible, str)
        return decode_attention(call.q, call.k, call.v, layout, visible, scale=call.scale)
