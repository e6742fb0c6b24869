"""Notices: what users should know after a forward, each thing once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from accel.apply.installed_site import InstalledSite
from accel.patches.context import Context
from accel.patches.diffusers.install import Uninstall
from accel.patches.diffusers.skipping import may_be_skipped

REPLACED = "processor replaced since"
SWITCHED = "attention implementation set since"


class Notices:
    """Watches the installed sites of one patch.

    Args:
        warned: what has been warned about; shared by the sites of one patch.
    """

    def __init__(self, warned: set[str]) -> None:
        self.warned = warned
        self.judged: set[str] = set()

    def after_forward(self, model: nn.Module, installed: Sequence[InstalledSite], context: Context) -> None:
        """Look at the installed sites of the model that has finished a forward.

        Raises:
            RuntimeError: if it called none of them: the installed library may have changed.
        """
        in_force = [one for one in installed if one.uninstall.in_force]
        if len(in_force) < len(installed):
            self._replaced([one for one in installed if not one.uninstall.in_force], context)
        self._backend_chosen(in_force)
        if not torch.is_grad_enabled():
            self._passed_by(model, in_force)

    def before_forward(self, installed: Sequence[InstalledSite]) -> None:
        """Look at the installed layers of the language model that begins a forward."""
        for one in installed:
            undo = one.uninstall
            if not isinstance(undo, Uninstall) and not undo.slot.is_wanted:
                one.attention.record.count_dense(SWITCHED, None)
                self._tell(
                    SWITCHED,
                    f"the attention implementation {undo.slot.stock._attn_implementation!r} was set after "
                    "accelerate_model and runs every call. Each forward is counted in summary(); call "
                    "accelerate_model again to make it sparse.",
                )

    def _replaced(self, installed: Sequence[InstalledSite], context: Context) -> None:
        for one in installed:
            one.attention.record.count_dense(REPLACED, context.step)
        names = [one.site.full_name for one in installed]
        theirs = sorted({type(one.site.module.processor).__name__ for one in installed})
        self._tell_of(
            names,
            REPLACED,
            f"{{}}: another processor ({', '.join(theirs)}) was set after accelerate_model and is left in "
            "place. No sparse attention there, each forward is counted in summary(); call accelerate_model "
            "again to take stock processors over.",
        )

    def _backend_chosen(self, installed: Sequence[InstalledSite]) -> None:
        for name in chosen_backends(installed):
            self._tell(
                f"backend {name}",
                f"the attention backend {str(name)!r} was chosen after accelerate_model: it runs the dense "
                "calls, and sparse calls stay sparse; restore_model keeps the choice.",
            )

    def _passed_by(self, model: nn.Module, installed: Sequence[InstalledSite]) -> None:
        waiting = [one for one in installed if one.site.full_name not in self.judged]
        idle = [one for one in waiting if not one.attention.record.calls]
        # What a cache leaves out now, it may call in another forward.
        left_out = {one.site.full_name for one in idle if may_be_skipped(model, one.site.name)}
        self.judged |= {one.site.full_name for one in waiting} - left_out
        names = [one.site.full_name for one in idle if one.site.full_name not in left_out]
        if names and len(names) == len(installed):
            raise RuntimeError(
                f"{type(model).__name__} called none of its {len(installed)} accelerated attention sites: "
                "the installed library may have changed. restore_model() removes the acceleration."
            )
        self._tell_of(names, "passed by", "never called in the first forward: {}")

    def _tell_of(self, sites: Sequence[str], what: str, message: str) -> None:
        new = [site for site in sites if f"{what} {site}" not in self.warned]
        self.warned |= {f"{what} {site}" for site in new}
        if new:
            warnings.warn(message.format(", ".join(new)), stacklevel=2)

    def _tell(self, what: str, message: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            warnings.warn(message, stacklevel=2)


def chosen_backends(installed: Sequence[InstalledSite]) -> set[str]:
    """The backends that were chosen for dense calls since these sites were installed."""
    undos = [one.uninstall for one in installed]
    chosen = [undo.chosen_backend for undo in undos if isinstance(undo, Uninstall)]
    return {name for name in chosen if name is not None}
