"""Patch: a plan in force on the models of one pipeline; undoable, with its counts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from torch import nn

from accel.apply.installed_site import InstalledSite
from accel.apply.notices import Notices
from accel.apply.plan import Plan, Step
from accel.patches.context import Context
from accel.patches.diffusers.forwards.clock import Clock
from accel.patches.diffusers.forwards.root_hook import RootHook
from accel.patches.diffusers.install import prepare
from accel.patches.hook import ModelHook
from accel.patches.models import is_language_model
from accel.sites.faults import Doing, hook_fault
from accel.sites.grid.grid_attention import GridAttention
from accel.sites.sequence.sequence_attention import SequenceAttention
from accel.sites.stopwatch import Stopwatch

if TYPE_CHECKING:
    from accel.patches.diffusers.dense_backend import DenseBackend


class Patch:
    """What `apply` leaves on the models. Copies and pickles of a model carry their own patch.

    Attributes:
        plan: what was applied.
        models: the patched models by component name.
        installed: the sites in force.
        dense_backends: what dense calls run on, by the name a schedule has.
        removed: whether it was taken out again.
        warned: what has been warned about.
        notices: warns of sites that are never called or were replaced.
    """

    def __init__(self, plan: Plan, models: Mapping[str, nn.Module]) -> None:
        self.plan = plan
        self.models = dict(models)
        self.hooks: dict[str, ModelHook] = {}
        self.installed: list[InstalledSite] = []
        self.removed = False
        self.dense_backends: dict[str, DenseBackend] = {}
        self.warned: set[str] = set()
        self.notices = Notices(self.warned)

    def put_in(self) -> None:
        """Install again everything that `remove` removed."""
        self.removed = False
        for component, hook in self.hooks.items():
            hook.attach(self.models[component])
        for one in self.installed:
            one.uninstall.put_in()

    def remove(self) -> None:
        """Remove everything. A second call does nothing."""
        self.removed = True
        for one in reversed(self.installed):
            one.uninstall()
        # The hooks go last: by them an interrupted removal is found and taken up again.
        for component, hook in self.hooks.items():
            hook.detach(self.models[component])

    def time_calls(self) -> Stopwatch:
        """Start timing every attention call, dense ones too; the total is in the stopwatch returned."""
        stopwatch = Stopwatch()
        for one in self.installed:
            one.attention.stopwatch = stopwatch
        return stopwatch

    def after_forward(self, hook: RootHook, model: nn.Module, context: Context) -> None:
        """Notice what a finished forward shows, see `Notices.after_forward`."""
        self.notices.after_forward(model, self._installed_of(hook), context)

    def before_forward(self, hook: ModelHook) -> None:
        """Notice what a language model shows before a forward, see `Notices`."""
        self.notices.before_forward(self._installed_of(hook))

    def left_alone(self, hook: RootHook, reason: str) -> None:
        """Count a forward in which the sites run the model's own attention and are not asked."""
        for one in self._installed_of(hook):
            if one.uninstall.in_force:
                one.attention.record.count_dense(reason, None)

    def _installed_of(self, hook: ModelHook) -> list[InstalledSite]:
        components = {name for name, attached in self.hooks.items() if attached is hook}
        return [one for one in self.installed if one.site.component in components]

    def hook_failed(self, doing: Doing, error: Exception) -> str:
        """Warn once that a hook failed; returns the reason to count its forward's calls under.

        Raises:
            Exception: the error itself under `ACCEL_STRICT=1`.
        """
        return hook_fault(doing, error, self.warned)

    @property
    def step_source(self) -> str:
        """What the denoising steps are counted by, in words; empty for a language model."""
        return next(iter(self.hooks.values())).step_source

    def _add_hook(self, component: str, clock: Clock) -> None:
        model = self.models[component]
        hook: ModelHook = RootHook(clock, owner=self)
        if is_language_model(model):
            # transformers is imported now and not before.
            from accel.patches.transformers.hook import SequenceHook

            hook = SequenceHook(self)
        self.hooks[component] = hook
        hook.attach(model)

    def _add(self, step: Step) -> None:
        assert step.rule is not None
        site, rule, recipe = step.site, step.rule, self.plan.recipe
        if site.causal:
            from accel.patches.transformers.install import prepare_sequence

            sequence = SequenceAttention(site, rule, recipe, self.warned)
            self._put_in(InstalledSite(site, sequence, prepare_sequence(site, sequence)))
            return
        hook = self.hooks[site.component]
        assert isinstance(hook, RootHook)
        attention = GridAttention(site, rule, recipe, hook, self.warned)
        uninstall = prepare(self.models[site.component], site, attention)
        if (backend := attention.schedule.dense_backend) is not None:
            # Not before it is asked for: it needs diffusers.
            from accel.patches.diffusers.backend import PreferredDense
            from accel.patches.diffusers.dense_backend import DenseBackend

            shared = self.dense_backends.setdefault(backend, DenseBackend(backend))
            uninstall.routed.slot.dense = PreferredDense(uninstall.routed.slot.dense, shared)
        self._put_in(InstalledSite(site, attention, uninstall))

    def _put_in(self, one: InstalledSite) -> None:
        # Listed first, so that an interrupt in between leaves nothing that `remove` does not know.
        self.installed.append(one)
        one.uninstall.put_in()


def apply(plan: Plan, models: Mapping[str, nn.Module], clock: Clock) -> Patch:
    """Put a plan in force. If anything fails, every model is restored.

    Args:
        plan: of the sites of exactly these models.
        models: by component name; one clock serves them all, so that experts count their steps together.
        clock: knows the denoising step.
    """
    patch = Patch(plan, models)
    with ExitStack() as undo:
        undo.callback(patch.remove)
        for component in patch.models:
            patch._add_hook(component, clock)
        for step in plan.matched:
            patch._add(step)
        undo.pop_all()
    return patch
