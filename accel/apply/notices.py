"""Notices: what a finished forward shows that its user should hear of, each thing once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from accel.apply.seated import Seated
from accel.patches.context import Context
from accel.patches.diffusers.install import Uninstall
from accel.patches.diffusers.skipping import may_be_skipped

REPLACED = "processor replaced since"


class Notices:
    """Watches the seats of one patch.

    Args:
        told: what has been warned about; shared by the sites of one patch.
    """

    def __init__(self, told: set[str]) -> None:
        self.told = told
        self.judged: set[str] = set()

    def after_forward(self, model: nn.Module, seats: Sequence[Seated], context: Context) -> None:
        """Look at the seats of the model that has finished a forward.

        Raises:
            RuntimeError: if it called none of them: the installed library may have changed.
        """
        in_force = [seat for seat in seats if seat.uninstall.in_force]
        if len(in_force) < len(seats):
            self._replaced([seat for seat in seats if not seat.uninstall.in_force], context)
        self._backend_chosen(in_force)
        if not torch.is_grad_enabled():
            self._passed_by(model, in_force)

    def _replaced(self, seats: Sequence[Seated], context: Context) -> None:
        for seat in seats:
            seat.attention.record.count_dense(REPLACED, context.step)
        names = [seat.site.full_name for seat in seats]
        theirs = sorted({type(seat.site.module.processor).__name__ for seat in seats})
        self._tell_of(
            names,
            REPLACED,
            f"{{}}: another processor ({', '.join(theirs)}) was set after accelerate_model and is left in "
            "place. No sparse attention there, each forward is counted in summary(); call accelerate_model "
            "again to take stock processors over.",
        )

    def _backend_chosen(self, seats: Sequence[Seated]) -> None:
        for name in chosen_backends(seats):
            self._tell(
                f"backend {name}",
                f"the attention backend {str(name)!r} was chosen after accelerate_model: it serves the dense "
                "calls, and sparse calls stay sparse; restore_model keeps the choice.",
            )

    def _passed_by(self, model: nn.Module, seats: Sequence[Seated]) -> None:
        waiting = [seat for seat in seats if seat.site.full_name not in self.judged]
        idle = [seat for seat in waiting if not seat.attention.record.calls]
        # What a cache leaves out now, it may call in another forward.
        left_out = {seat.site.full_name for seat in idle if may_be_skipped(model, seat.site.name)}
        self.judged |= {seat.site.full_name for seat in waiting} - left_out
        names = [seat.site.full_name for seat in idle if seat.site.full_name not in left_out]
        if names and len(names) == len(seats):
            raise RuntimeError(
                f"{type(model).__name__} called none of its {len(seats)} accelerated attention sites: the "
                "installed library may have changed. restore_model() takes the acceleration out."
            )
        self._tell_of(names, "passed by", "never called in the first forward: {}")

    def _tell_of(self, sites: Sequence[str], what: str, message: str) -> None:
        new = [site for site in sites if f"{what} {site}" not in self.told]
        self.told |= {f"{what} {site}" for site in new}
        if new:
            warnings.warn(message.format(", ".join(new)), stacklevel=2)

    def _tell(self, what: str, message: str) -> None:
        if what not in self.told:
            self.told.add(what)
            warnings.warn(message, stacklevel=2)


def chosen_backends(seats: Sequence[Seated]) -> set[str]:
    """The backends that were chosen for dense calls since these seats were put in."""
    undos = [seat.uninstall for seat in seats]
    chosen = [undo.chosen_backend for undo in undos if isinstance(undo, Uninstall)]
    return {name for name in chosen if name is not None}
