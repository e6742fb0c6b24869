"""Room: how much a generation may keep on a GPU beside all that was ever held there at once."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import torch

MARGIN = 1 / 16  # of the GPU's memory, for what no forward has needed yet


def room_on(device: torch.device, kept: dict[Hashable, Any]) -> float:
    """Bytes, read when a generation first asks; infinite where nobody counts them.

    Args:
        kept: what the generation keeps, this figure included.
    """
    place = "room", device
    if place not in kept:
        kept[place] = _room(device) if device.type == "cuda" else math.inf
    found: float = kept[place]
    return found


def _room(device: torch.device) -> float:
    free, total = torch.cuda.mem_get_info(device)
    peak, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.memory_reserved(device)
    return free + reserved - peak - MARGIN * total
