"""SequenceAttention: the call in one layer of a language model: sparse, or dense with a counted reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from accel.attention_sink import with_sinks
from accel.call_record import CallRecord
from accel.dense_queries import with_dense_queries
from accel.faults import Fault, Guard
from accel.kernels.layout import BlockLayout
from accel.kernels.tiers import choose_tier
from accel.patches.context import Context
from accel.patches.site import Site
from accel.patches.transformers_call import SequenceCall
from accel.patches.transformers_mask import Visible
from accel.policies.policy import Policy
from accel.schedule import Schedule
from accel.sequence_decode import SequenceDecode
from accel.stopwatch import Stopwatch
from accel.tier_proof import block_sparse_attention
from accel.worth import SLOWER, Worth


class SequenceAttention:
    """The attention function that is seated at one layer (a `SequenceFn`).

    Sparse where what each query may see is exactly causal, cache and padding on the right included; all
    else is dense, as the model would have run it.

    Args:
        site: where; only its place among the layers is kept.
        policy: chooses the blocks.
        schedule: what stays dense.
        told: the faults that have been warned about; the layers of one patch share it.
    """

    def __init__(self, site: Site, policy: Policy, schedule: Schedule, told: set[str] | None = None) -> None:
        self.context = Context(layer=site.layer, n_layers=site.n_layers)
        self.policy = policy
        self.schedule = schedule
        self.record = CallRecord()
        self.guard = Guard(site.full_name, set() if told is None else told)
        self.decode = SequenceDecode(policy, schedule)
        self.worth = Worth()
        self.stopwatch: Stopwatch | None = None

    def __call__(self, call: SequenceCall, dense: Callable[[], Tensor]) -> Tensor:
        with self.stopwatch.running(call.q.device) if self.stopwatch else nullcontext():
            if self.decode.takes(call):
                return self._decode(call, dense)
            self.decode.memory.forget()
            visible = self._visible(call)
            planned = visible if isinstance(visible, str) else self._worthwhile(call, visible)
            if isinstance(planned, str) or isinstance(visible, str):
                self.record.count_dense(str(planned), None)
                return dense()
            return self.guard.run(
                planned, lambda layout: self._attend(call, visible, layout), dense, self.record, None
            )

    def _decode(self, call: SequenceCall, dense: Callable[[], Tensor]) -> Tensor:
        reason = self._dense_reason(call) or self.guard.stays_dense
        if reason is None:
            found = self.guard.attempt("planning", lambda: self.decode.dense_reason(call))
            reason = self.guard.remember(found) if isinstance(found, Fault) else found
        if reason is not None:
            self.decode.memory.forget()
            self.record.count_dense(reason, None)
            return dense()

        def attend(layout: BlockLayout) -> Tensor:
            out, lse = self.decode.attend(call, layout)
            return (out if call.sinks is None else with_sinks(out, lse, call.sinks)).transpose(1, 2)

        return self.guard.run(lambda: self.decode.plan(call), attend, dense, self.record, None)

    def _visible(self, call: SequenceCall) -> Visible | str:
        """What the queries see, or why this call runs dense. The mask is read last: it may cost a sync."""
        if reason := self._dense_reason(call) or self.guard.stays_dense:
            return reason
        visible = call.visible()
        if isinstance(visible, str):
            return visible
        return self.schedule.dense_reason(self.context, visible.kv_len) or visible

    def _worthwhile(self, call: SequenceCall, visible: Visible) -> Callable[[], BlockLayout] | str:
        """What gives the layout, or why sparse attention does not pay; the first call of a length measures.

        Blocks are chosen here only where the machine is to say whether they are few enough.
        """
        if self.schedule.min_tokens is not None:
            return lambda: self._plan(call, visible)
        keys = call.k[:, :, : visible.kv_len]
        most = self.guard.attempt("planning", lambda: self.worth.most(call.q, keys, self.policy))
        if most == 0:
            return SLOWER
        layout = most if isinstance(most, Fault) else self._attempted_plan(call, visible)
        if isinstance(most, Fault) or isinstance(layout, Fault):
            assert isinstance(layout, Fault)
            return self.guard.remember(layout)
        return (lambda: layout) if self.worth.pays(call.q, keys, layout, most) else SLOWER

    def _attempted_plan(self, call: SequenceCall, visible: Visible) -> BlockLayout | Fault:
        return self.guard.attempt("planning", lambda: self._plan(call, visible))

    def _dense_reason(self, call: SequenceCall) -> str | None:
        """Why this call runs dense, as far as shapes tell; the most general reason first."""
        if self.policy.method == "dense":
            return "dense by recipe"
        if torch.is_grad_enabled() and call.q.requires_grad:
            return "gradients are recorded"
        if reason := call.unlike_plain_attention:
            return reason
        if call.q.shape[2] == 1 and not self.schedule.sparse_decode:
            return "decode"
        if not call.q.dtype == call.k.dtype == call.v.dtype:
            return "queries, keys and values of several types"
        if reason := choose_tier(call.q.device, call.q.dtype, call.q.shape[3]).unsupported:
            return reason
        return self.schedule.dense_reason(self.context, call.k.shape[2])

    def _plan(self, call: SequenceCall, visible: Visible) -> BlockLayout:
        k = call.k[:, :, : visible.kv_len]
        layout = self.policy.layout(as_scaled(call.q, call.scale), k, None, self.context)
        if call.q.shape[2] > 1:
            layout = with_dense_queries(layout, self.schedule.dense_queries)
        return layout if visible.kv_lengths is None else replace(layout, kv_lengths=visible.kv_lengths)

    def _attend(self, call: SequenceCall, visible: Visible, layout: BlockLayout) -> Tensor:
        k, v = call.k[:, :, : visible.kv_len], call.v[:, :, : visible.kv_len]
        if call.sinks is None:
            return block_sparse_attention(call.q, k, v, layout, scale=call.scale).transpose(1, 2)
        out, lse = block_sparse_attention(call.q, k, v, layout, scale=call.scale, return_lse=True)
        return with_sinks(out, lse, call.sinks).transpose(1, 2)


def as_scaled(q: Tensor, scale: float | None) -> Tensor:
    """Queries whose logits under the usual 1 / sqrt(D), which policies assume, are those under `scale`."""
    usual = 1 / math.sqrt(q.shape[3])
    if scale is None or math.isclose(scale, usual, rel_tol=1e-6):
        return q
    return q * (scale / usual)
