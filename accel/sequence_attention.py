"""SequenceAttention: the call in one layer of a language model: sparse, or dense with a counted reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from accel.call_record import CallRecord
from accel.crossover import dense_is_faster
from accel.dense_queries import with_dense_queries
from accel.faults import Fault, Guard
from accel.kernels.block_sparse_attention import block_sparse_attention
from accel.kernels.layout import BlockLayout
from accel.kernels.tiers import choose_tier
from accel.patches.context import Context
from accel.patches.site import Site
from accel.patches.transformers_call import SequenceCall
from accel.patches.transformers_mask import Visible
from accel.policies.policy import Policy
from accel.schedule import Schedule
from accel.stopwatch import Stopwatch


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
        self.stopwatch: Stopwatch | None = None

    def __call__(self, call: SequenceCall, dense: Callable[[], Tensor]) -> Tensor:
        with self.stopwatch.running(call.q.device) if self.stopwatch else nullcontext():
            visible = self._visible(call)
            if isinstance(visible, str):
                self.record.count_dense(visible, None)
                return dense()
            return self.guard.run(
                lambda: self._plan(call, visible),
                lambda layout: self._attend(call, visible, layout),
                dense,
                self.record,
                None,
            )

    def _visible(self, call: SequenceCall) -> Visible | str:
        """What the queries see, or why this call runs dense. The mask is read last: it may cost a sync."""
        if reason := self._dense_reason(call) or self.guard.stays_dense:
            return reason
        visible = call.visible()
        if isinstance(visible, str):
            return visible
        if reason := self.schedule.dense_reason(self.context, visible.kv_len):
            return reason
        if self.schedule.min_tokens is None and (reason := self._slower_reason(call, visible)):
            return reason
        return visible

    def _slower_reason(self, call: SequenceCall, visible: Visible) -> str | None:
        """Why sparse attention is not worth it at this length; the first call of a length measures it."""
        keys = call.k[:, :, : visible.kv_len]
        faster = self.guard.attempt("planning", lambda: dense_is_faster(call.q, keys, self.policy))
        if isinstance(faster, Fault):
            return self.guard.remember(faster)
        return "dense is faster at this length on this machine" if faster else None

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


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """Attention [B, H, M, Dv] whose softmax has one more logit for each head, which carries no value.

    The softmax's sum grows from exp(lse) to exp(lse) + exp(sink), so the output shrinks by the quotient.
    """
    share = torch.sigmoid(lse - sinks.float()[:, None])  # [B, H, M]
    return (out * share.unsqueeze(-1)).to(out.dtype)


def as_scaled(q: Tensor, scale: float | None) -> Tensor:
    """Queries whose logits under the usual 1 / sqrt(D), which policies assume, are those under `scale`."""
    usual = 1 / math.sqrt(q.shape[3])
    if scale is None or math.isclose(scale, usual, rel_tol=1e-6):
        return q
    return q * (scale / usual)
