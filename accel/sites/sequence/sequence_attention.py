"""SequenceAttention: the call in one layer of a language model: sparse, or dense with a counted reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from accel.kernels.attention.operation import attention_with_lse
from accel.kernels.layout.layout import BlockLayout
from accel.machine import tier_check
from accel.patches.context import Context
from accel.patches.observers import recorder, tracer
from accel.patches.site import Site
from accel.patches.transformers.call import SequenceCall
from accel.patches.transformers.mask import Visible
from accel.recipe.recipe import Recipe, Rule
from accel.sites.call_record import DECODING, PROMPT
from accel.sites.sequence.fixed_blocks import window_layout, with_dense_queries
from accel.sites.sequence.memories import Memories
from accel.sites.sequence.pays_off import SLOWER
from accel.sites.sequence.sequence_decode import MOST_QUERIES, SequenceDecode
from accel.sites.sequence.unpadded import Layouts, Parts
from accel.sites.site_attention import SiteAttention

WINDOW = "sliding window"


class SequenceAttention(SiteAttention):
    """The attention function that is installed at one layer of a language model (a `SequenceFn`).

    Sparse where what each query may see is exactly causal, cache, padding and a sliding window included; all
    else is dense, as the model would have run it. Under a window nothing is chosen and nothing lost: its
    blocks are read and no others.

    Args:
        site: where; only its place among the layers is kept.
        rule, recipe, warned: see `SiteAttention`.
    """

    def __init__(self, site: Site, rule: Rule, recipe: Recipe, warned: set[str] | None = None) -> None:
        super().__init__(site, rule, recipe, warned)
        if site.windowed:
            # Layers that stay dense are of those that see everything; under a window nothing is lost.
            self.schedule = replace(self.schedule, dense_layers=0.0)
        self.context = Context(layer=site.layer, n_layers=site.n_layers)
        self.decode = SequenceDecode(self.policy, self.schedule)
        self.memories = Memories()

    def __call__(self, call: SequenceCall, dense: Callable[[], Tensor]) -> Tensor:
        with self.timed(call.q.device):
            if (traced := tracer()) is not None:
                return self.dense(call.q, traced, dense, phase_of(call))
            if self.decode.takes(call):
                return self._decode(call, dense)
            self.memories.forget(call)
            phase, visible = phase_of(call), self._visible(call)
            if isinstance(visible, str):
                return self.dense(call.q, visible, dense, phase)
            parts = Parts.of(call, visible)
            plan, attend = partial(self._plan, call, visible, parts), partial(self._attend, call.q, parts)
            return self.sparse(call.q, plan, attend, dense, phase)

    def _decode(self, call: SequenceCall, dense: Callable[[], Tensor]) -> Tensor:
        reason = self._dense_reason(call)
        # A layer with a window caches at most the window: there is nothing to look for.
        reason = reason or (self.faults.stays_dense if call.window is None else WINDOW)
        if reason is not None:
            self.memories.forget(call)
            return self.dense(call.q, reason, dense, DECODING)
        plan, attend = partial(self._plan_decode, call), partial(self._attend_decode, call)
        return self.sparse(call.q, plan, attend, dense, DECODING)

    def _plan_decode(self, call: SequenceCall) -> BlockLayout | str:
        """The keys to read, or why reading all of them is as good."""
        reason = self.decode.dense_reason(call)
        if reason is not None:
            self.memories.forget(call)
            return reason
        memory = self.memories.of(call).decode
        if call.past is not None and not call.past.is_as_left:
            memory.forget()
        return self.decode.plan(call, memory)

    def _attend_decode(self, call: SequenceCall, layout: BlockLayout) -> Tensor:
        out, lse = self.decode.attend(call, layout)
        return (out if call.sinks is None else with_sinks(out, lse, call.sinks)).transpose(1, 2)

    def _visible(self, call: SequenceCall) -> Visible | str:
        """What the queries see, or why this call runs dense. The mask is read last: it may cost a sync."""
        if reason := self._dense_reason(call) or self.faults.stays_dense or recorder():
            return reason
        visible = call.visible()
        if isinstance(visible, str):
            return WINDOW if call.cut_by_window else visible
        return self.schedule.dense_reason(self.context, visible.kv_len) or visible

    def _plan(self, call: SequenceCall, visible: Visible, parts: Parts) -> Layouts | str:
        """The layouts, or why sparse attention does not pay; the first call of a length measures."""
        if self.schedule.min_tokens is not None:
            return self._layouts(parts, visible.window)
        keys = call.k[:, :, : visible.kv_len]
        pays_off = self.memories.of(call).pays_off
        most = pays_off.most(call.q, keys, self.policy)
        if most == 0:
            return SLOWER
        layouts = self._layouts(parts, visible.window)
        return layouts if pays_off.pays(call.q, keys, layouts.density, most) else SLOWER

    def _dense_reason(self, call: SequenceCall) -> str | None:
        """Why this call runs dense, as far as shapes show; the most general reason first."""
        if reason := self.never_sparse(call.q, call.k, call.v) or call.unlike_plain_attention:
            return reason
        if call.q.shape[2] == 1 and not self.schedule.sparse_decode:
            return "decode"
        if not call.q.dtype == call.k.dtype == call.v.dtype:
            return "queries, keys and values of several types"
        if reason := self.no_kernel(call.q):
            return reason
        return self.schedule.dense_reason(self.context, call.k.shape[2])

    def _layouts(self, parts: Parts, window: int | None) -> Layouts:
        if window is not None:
            return parts.plan(
                lambda part: window_layout(part.q.shape[2], part.k.shape[2], window, part.q.device)
            )
        return parts.plan(self._choose)

    def _choose(self, part: SequenceCall) -> BlockLayout:
        context = self.context if part.vision is None else replace(self.context, vision=part.vision)
        layout = self.policy.layout(part.scaled_q, part.k, None, context)
        if part.q.shape[2] == 1:
            return layout
        return with_dense_queries(layout, self.schedule.dense_queries)

    def _attend(self, q: Tensor, parts: Parts, layouts: Layouts) -> Tensor:
        """[B, M, H, D] for the queries [B, H, M, D] of all parts."""
        tier_check.check_if_unknown(q.device, q.dtype, q.shape[3], self.precision)
        outs = []
        for part, layout in zip(parts.calls, layouts.each, strict=True):
            out, lse = attention_with_lse(
                part.q,
                part.k,
                part.v,
                layout,
                scale=part.scale,
                precision=self.precision,
            )
            outs.append(out if part.sinks is None else with_sinks(out, lse, part.sinks))
        return parts.join(outs, q).transpose(1, 2)


def phase_of(call: SequenceCall) -> str:
    """Whether a call is of a prompt, or of a few tokens after a cache."""
    q_len, kv_len = call.q.shape[2], call.k.shape[2]
    return DECODING if q_len <= MOST_QUERIES and kv_len > q_len else PROMPT


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """Attention sinks: attention [B, H, M, Dv] whose softmax also has the logits `sinks` [H].

    The softmax's sum grows from exp(lse) to exp(lse) + exp(sink), so the output shrinks by the quotient.

    Args:
        lse: float32 [B, H, M], natural logarithm.
    """
    share = torch.sigmoid(lse - sinks.float()[:, None])  # [B, H, M]
    return (out * share.unsqueeze(-1)).to(out.dtype)
