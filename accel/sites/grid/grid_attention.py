"""GridAttention: the call at one site of a diffusion model: sparse, or dense with a counted reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from accel.kernels.attention.operation import attention_with_lse
from accel.kernels.layout.layout import BlockLayout
from accel.machine import tier_check
from accel.patches.context import Context
from accel.patches.diffusers.forwards.forward import OUTSIDE, Forward
from accel.patches.diffusers.forwards.root_hook import RootHook
from accel.patches.observers import interceptor
from accel.patches.site import Site
from accel.policies.parts.ramp import at_progress
from accel.recipe.compensate import AnyCompensation, Compensate, Probed, Rectified
from accel.recipe.recipe import Recipe, Rule
from accel.recipe.schedule import FIRST_STEPS, REFRESH
from accel.sites.grid.call import Call
from accel.sites.grid.layout_cache import LayoutCache
from accel.sites.grid.padding import (
    MOVED,
    hidden_last,
    hides_padding_only,
    is_known,
    picked,
    put_back,
    valid_keys,
    without_padding,
)
from accel.sites.grid.residual import Residual
from accel.sites.grid.shared_pass import SharedPass
from accel.sites.site_attention import SiteAttention

if TYPE_CHECKING:
    from accel.sites.grid.probed import Prober
    from accel.sites.grid.rectified import Rectifier

Heads = tuple[Tensor, ...]  # q, k and v, [B, H, N, D] each


@dataclass(frozen=True)
class Planned:
    """What was planned for a call.

    Args:
        layout: its blocks.
        call: which one it is.
        captured: of a dense call that captures the residual of these blocks, why it is dense.
        extra: what is executed in addition to them, as a share of all blocks.
    """

    layout: BlockLayout
    call: Call
    captured: str | None = None
    extra: float = 0.0

    @property
    def density(self) -> Tensor:
        return self.layout.density + self.extra


class GridAttention(SiteAttention):
    """The attention function that is installed at one site of a diffusion model (an `AttentionFn`).

    Args:
        site: where; only its place among the layers, its heads and halvings are kept.
        rule, recipe, warned: see `SiteAttention`.
        hook: knows the context of the forward under way.

    Attributes:
        few: the same site for schedules of few steps; None if these change nothing.
        overlay: why it last was, in words.
        starts_dense: whether the first step in which a generation calls the site runs dense: each expert's.
    """

    def __init__(
        self,
        site: Site,
        rule: Rule,
        recipe: Recipe,
        hook: RootHook,
        warned: set[str] | None = None,
    ) -> None:
        super().__init__(site, rule, recipe, warned)
        few_steps = self.few_steps = recipe.few_steps
        self.few: GridAttention | None = None
        self.overlay = ""
        self.starts_dense = False
        self.layer = site.layer
        self.n_layers = site.n_layers
        self.heads = site.heads
        self.halvings = site.halvings
        self.sharpness = rule.sharpness
        self.hook = hook
        self.layouts = LayoutCache(recipe.reuse_of(rule))
        how = recipe.compensate
        self.residual = Residual(how) if isinstance(how, Compensate) else None
        self.repair = repair_of(how)
        # Dense is what others are compared with: it does all of its work.
        self.shares = site.text_free and self.policy.method != "dense"
        if few_steps is not None and self.policy.method != "dense":
            changes = {
                "schedule": few_steps.schedule(self.schedule),
                "reuse": few_steps.reuse(self.layouts.reuse),
            }
            plain = recipe.model_copy(update={"few_steps": None, "compensate": None})
            self.few = GridAttention(site, rule.model_copy(update=changes), plain, hook, warned)
            self.few.record, self.few.faults, self.few.starts_dense = self.record, self.faults, True
            self.few.residual, self.few.repair = self.residual, self.repair

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dense: Callable[[], Tensor]
    ) -> Tensor:
        with self.timed(q.device):
            forward = self.hook.forward or Forward(dense=OUTSIDE)
            if self._has_few_steps(forward):
                assert self.few is not None
                return self.few(q, k, v, mask, dense)
            context = self._context(forward, q.shape[1])
            number = forward.call_of(self)
            shared = self._shared_pass(q, k, v, context, forward, number)
            if shared is not None and (out := shared.take(q)) is not None:
                self.record.count_shared(context.step)
                return out
            reason = self._dense_reason(q, k, v, mask, context, forward) or self.faults.stays_dense
            movable = mask if context.text_padding in MOVED else None
            if movable is not None and forward.parallel is not None:
                reason = reason or "attention mask"
            if reason is not None and not self._captures(reason, context, forward):
                out = self.dense(q, reason, dense, context.step)
            else:
                arrival = forward.arrival(q.device)
                if movable is not None:
                    context, arrival, mask = hidden_last(context, movable, q.shape[0])
                heads = tuple(picked(x, arrival).transpose(1, 2) for x in (q, k, v))  # [B, H, N, D]
                if mask is not None and hides_padding_only(mask, context):
                    context = replace(context, kv_lengths=valid_keys(mask, q.shape[0]))
                out = self.sparse(
                    q,
                    partial(self._plan, heads, context, forward, number, reason),
                    partial(self._attend, heads, arrival),
                    dense,
                    context.step,
                    alone=context.heads is None or not self.policy.spans_heads,
                )
            if shared is not None:
                shared.keep(out, q)
            return out

    def _has_few_steps(self, forward: Forward) -> bool:
        if self.few is None or self.few_steps is None:
            return False
        context = forward.context
        why = self.few_steps.why(context.n_steps, context.guided, forward.adapter_names)
        self.overlay = why or self.overlay
        return why is not None

    def _shared_pass(
        self, q: Tensor, k: Tensor, v: Tensor, context: Context, forward: Forward, number: int
    ) -> SharedPass | None:
        """Where a call leaves its output for the other pass of guidance; None where passes never share."""
        if not self.shares or forward.dense or forward.parallel:
            return None
        if self.never_sparse(q, k, v) or interceptor():
            return None
        place = id(self), SharedPass, number
        return SharedPass(context, (context.grid, forward.adapters), forward.kept, place)

    def _captures(self, reason: str, context: Context, forward: Forward) -> bool:
        """Whether a call that is dense for `reason` captures the residual for the steps to come."""
        if self.residual is None or reason not in (FIRST_STEPS, REFRESH):
            return False
        return self.schedule.precedes_sparse(context) and self.residual.captures(forward.kept)

    def _context(self, forward: Forward, tokens: int) -> Context:
        """The context of a call: the forward's, and where in the model this is."""
        context, heads = forward.context, forward.heads(self.heads)
        grid = None if context.grid is None else context.grid.halved(self.halvings)
        here = replace(context, grid=grid, layer=self.layer, n_layers=self.n_layers, heads=heads)
        return here.of_call(tokens)

    def _attend(self, qkv: Heads, arrival: Tensor | None, planned: Planned) -> Tensor:
        """[B, H, N, D] each, in the layout's order -> [B, M, H, D] in the model's."""
        q, k, v = qkv
        tier_check.check_if_unknown(q.device, q.dtype, q.shape[3], self.precision)
        if planned.captured is not None:
            assert self.residual is not None
            out = self.residual.capture(qkv, planned.layout, planned.call)
        else:
            scale = None if self.sharpness == 1 else self.sharpness * q.shape[3] ** -0.5
            out, _ = attention_with_lse(q, k, v, planned.layout, scale=scale, precision=self.precision)
            if self.residual is not None:
                out = self.residual.apply(out, v, planned.call)
            if self.repair is not None:
                out = self.repair(out, q, k, v, planned.layout)
        return put_back(out.transpose(1, 2), arrival)

    def _plan(
        self, qkv: Heads, context: Context, forward: Forward, number: int, captured: str | None
    ) -> Planned:
        """The blocks of a call, and for a dense one that captures its residual, the reason it is dense."""
        q, k, _ = qkv
        adapters = (self.layouts.reuses or self.residual is not None) and forward.adapters
        call = Call(context, (q.shape, k.shape, q.device, context.grid, adapters), forward.kept, number)
        layout = self._layout(q, k, call, captured is not None)
        if context.kv_lengths is not None:
            layout = replace(layout, kv_lengths=context.kv_lengths)
        extra = 0.0 if self.repair is None else self.repair.extra(q.shape[2])
        return Planned(layout, call, captured, extra)

    def _layout(self, q: Tensor, k: Tensor, call: Call, captures: bool) -> BlockLayout:
        """The blocks that a residual is kept for, or is about to be; otherwise the cache's."""
        choose = partial(self._choose, q, k, call.context)
        if self.layouts.reuse.max_drift is not None and call.context.kv_lengths is not None:
            q, k = (without_padding(tokens, call.context.kv_lengths) for tokens in (q, k))
        if self.residual is not None and captures:
            known = self.residual.shared_layout(call) if self.layouts.reuse.branches else None
            return choose() if known is None else known
        known = None if self.residual is None else self.residual.layout(call)
        return self.layouts.layout(call, choose, (q, k)) if known is None else known

    def _choose(self, q: Tensor, k: Tensor, context: Context) -> BlockLayout:
        policy = at_progress(self.policy, context.progress)
        if context.kv_lengths is not None and not policy.static:
            q, k = (without_padding(tokens, context.kv_lengths) for tokens in (q, k))
        layout = policy.layout(q, k, context.grid, context)
        if context.grid is None or not context.grid.runs:
            return layout
        # Here, so that `import accel` does not load it.
        from accel.policies.parts.grid_blocks import seen_on

        return seen_on(context.grid, layout)

    def _dense_reason(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, context: Context, forward: Forward
    ) -> str | None:
        """Why this call runs dense, or None; the most general reason first."""
        if reason := self.never_sparse(q, k, v) or forward.dense:
            return reason
        if name := interceptor():
            return f"intercepted by {name}"
        assert context.grid is not None
        if q.shape[1] != k.shape[1]:
            return "cross-attention"
        if not is_known(mask, k.shape[1], context):
            return "attention mask"
        if q.shape[1] != context.grid.tokens:
            return f"grid {context.grid} is not {q.shape[1]} tokens"
        if reason := self.no_kernel(q):
            return reason
        only = self.policy.only_grid
        if only is not None and context.grid != only:
            return f"the method is for {only} tokens"
        if self.starts_dense:
            started = forward.kept.setdefault((id(self), FIRST_STEPS), context.turn)
            if started == context.turn:
                return FIRST_STEPS
        return self.schedule.dense_reason(context, q.shape[1])


def repair_of(how: AnyCompensation | None) -> Rectifier | Prober | None:
    """What estimates what each call leaves out; None if nothing does. Loaded only where it is asked for."""
    if isinstance(how, Rectified):
        from accel.sites.grid.rectified import Rectifier

        return Rectifier(how)
    if isinstance(how, Probed):
        from accel.sites.grid.probed import Prober

        return Prober(how)
    return None
