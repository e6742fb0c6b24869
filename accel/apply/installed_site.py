"""InstalledSite: one site in force: its attention function, and what removes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from accel.patches.diffusers.install import Uninstall
from accel.patches.site import Site
from accel.sites.grid.grid_attention import GridAttention
from accel.sites.sequence.sequence_attention import SequenceAttention

if TYPE_CHECKING:
    from accel.patches.transformers.install import UninstallSequence


@dataclass(frozen=True)
class InstalledSite:
    """One site in force: its function and its undo."""

    site: Site
    attention: GridAttention | SequenceAttention
    uninstall: Uninstall | UninstallSequence
