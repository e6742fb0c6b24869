"""SequenceAttention: the call in one layer of a language model: sparse, or dense with a counted reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor

from accel.kernels.attention.tiers import choose_tier
from accel.kernels.layout.layout import BlockLayout
from accel.machine.tier_proof import block_sparse_attention
from accel.patches.context import Context
from accel.patches.gradients import records_gradients
from accel.patches.site import Site
from accel.patches.transformers.call import SequenceCall
from accel.patches.transformers.mask import Visible
from accel.policies.policy import Policy
from accel.recipe.schedule import Schedule
from accel.sites.attention_sink import with_sinks
from accel.sites.call_record import CallRecord
from accel.sites.dense_queries import with_dense_queries
from accel.sites.faults import Fault, Guard
from accel.sites.sequence_decode import SequenceDecode
from accel.sites.stopwatch import Stopwatch
from accel.sites.unpadded import Layouts, Parts
from accel.sites.window_layout import window_layout
from accel.sites.worth import SLOWER, Worth

WINDOW = "sliding window"


class SequenceAttention:
    """The attention function that is seated at one layer (a `SequenceFn`).

    Sparse where what each query may see is exactly causal, cache, padding and a sliding window included; all
    else is dense, as the model would have run it. Under a window nothing is chosen and nothing lost: its
    blocks are read and no others.

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
            if isinstance(visible, str):
                self.record.count_dense(visible, None)
                return dense()
            parts = Parts.of(call, visible)
            planned = self._worthwhile(call, visible, parts)
            if isinstance(planned, str):
                self.record.count_dense(planned, None)
                return dense()
            return self.guard.run(
                planned,
                lambda layouts: parts.attend(layouts, self._attend, call.q).transpose(1, 2),
                dense,
                self.record,
                None,
            )

    def _decode(self, call: SequenceCall, dense: Callable[[], Tensor]) -> Tensor:
        reason = self._dense_reason(call) or (WINDOW if call.cut_by_window else self.guard.stays_dense)
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
            return WINDOW if call.cut_by_window else visible
        return self.schedule.dense_reason(self.context, visible.kv_len) or visible

    def _worthwhile(self, call: SequenceCall, visible: Visible, parts: Parts) -> Callable[[], Layouts] | str:
        """What gives the layouts, or why sparse attention does not pay; the first call of a length measures.

        Blocks are chosen here only where the machine is to say whether they are few enough.
        """
        if self.schedule.min_tokens is not None:
            return lambda: self._plan(parts, visible.window)
        keys = call.k[:, :, : visible.kv_len]
        most = self.guard.attempt("planning", lambda: self.worth.most(call.q, keys, self.policy))
        if most == 0:
            return SLOWER
        if isinstance(most, Fault):
            return self.guard.remember(most)
        layouts = self.guard.attempt("planning", lambda: self._plan(parts, visible.window))
        if isinstance(layouts, Fault):
            return self.guard.remember(layouts)
        return (lambda: layouts) if self.worth.pays(call.q, keys, layouts, most) else SLOWER

    def _dense_reason(self, call: SequenceCall) -> str | None:
        """Why this call runs dense, as far as shapes tell; the most general reason first."""
        if self.policy.method == "dense":
            return "dense by recipe"
        if records_gradients(call.q, call.k, call.v):
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

    def _plan(self, parts: Parts, window: int | None) -> Layouts:
        if window is not None:
            return parts.plan(
                lambda part: window_layout(part.q.shape[2], part.k.shape[2], window, part.q.device)
            )
        return parts.plan(self._choose)

    def _choose(self, part: SequenceCall) -> BlockLayout:
        layout = self.policy.layout(as_scaled(part.q, part.scale), part.k, None, self.context)
        if part.q.shape[2] == 1:
            return layout
        return with_dense_queries(layout, self.schedule.dense_queries)

    def _attend(self, part: SequenceCall, layout: BlockLayout) -> Tensor:
        if part.sinks is None:
            return block_sparse_attention(part.q, part.k, part.v, layout, scale=part.scale)
        out, lse = block_sparse_attention(part.q, part.k, part.v, layout, scale=part.scale, return_lse=True)
        return with_sinks(out, lse, part.sinks)


def as_scaled(q: Tensor, scale: float | None) -> Tensor:
    """Queries whose logits under the usual 1 / sqrt(D), which policies assume, are those under `scale`."""
    usual = 1 / math.sqrt(q.shape[3])
    if scale is None or math.isclose(scale, usual, rel_tol=1e-6):
        return q
    return q * (scale / usual)
