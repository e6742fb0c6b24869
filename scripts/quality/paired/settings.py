"""The settings that `paired` measures, by name: whole recipes, as in a YAML file."""

from __future__ import annotations

from typing import Any

BLOCK = (32, 32)  # at 128 pixels a frame has as many of them as of 64 x 64 at 192


def setting(
    select: dict[str, Any],
    schedule: dict[str, Any] | None = None,
    score: dict[str, Any] | None = None,
    order: dict[str, Any] | None = None,
    block_size: tuple[int, int] = BLOCK,
    **rest: Any,
) -> dict[str, Any]:
    """A composition in blocks of 32 x 32, with a quarter of the steps dense unless the arguments say else."""
    policy = {
        "method": "compose",
        "score": score or {"kind": "strided", "query": 8, "key": 8},
        "select": select,
        "block_size": list(block_size),
    }
    policy |= {"order": order} if order else {}
    rules = [{"match": "*", "policy": policy}]
    return {"schedule": {"dense_steps": 0.25} | (schedule or {}), "rules": rules, **rest}


def by_layer(density: float) -> dict[str, Any]:
    return {"kind": "top_k", "density": density, "budget": "layer", "row_density": density / 2}


def by_mass(mass: float) -> dict[str, Any]:
    return {"kind": "top_p", "mass": mass, "budget": "layer", "row_density": 0.05}


ONE_LAYOUT = {"branches": True}
UNTIL_DRIFT = {"steps": 1000, "max_drift": 0.23}  # HEART's threshold
REFRESHED = {"dense_every": 0.2}  # none of 8 steps, three of 24
FIRST_LAYER = {"dense_layers": 0.1}  # one of the demo's eight


# How far dense velocities move in each step (`step_budget` of prompts 1, 3, 5 and 22 to 27), brought to 0.41.
BY_VELOCITY = ((0.25, 0.853), (0.375, 0.695), (0.5, 0.352), (0.625, 0.213), (0.75, 0.176), (0.875, 0.172))


def by_velocity(*points: tuple[float, float]) -> dict[str, Any]:
    ramp = {"ramp": [list(point) for point in points or BY_VELOCITY]}
    return {"kind": "top_k", "density": ramp, "budget": "layer", "row_density": 0.08}


def residual(**changes: Any) -> dict[str, Any]:
    return {"kind": "residual", **changes}


# The demo's orders of the axes, a line a layer, by `learn_axes` from a dense run of prompt 1.
AXES = """
whf fhw fhw fwh
whf hwf hwf fwh
hwf fhw hwf fwh
whf fhw fwh hwf
whf hwf fwh whf
hwf hfw whf fhw
fwh hwf whf hwf
whf whf hwf hwf
"""
BY_HEAD = {"kind": "axes_by_head", "heads": [line.split() for line in AXES.split("\n") if line]}


SETTINGS: dict[str, dict[str, Any]] = {
    "axes": setting(by_layer(0.41), FIRST_LAYER, order=BY_HEAD),
    "axes, by mass": setting(by_mass(0.95), FIRST_LAYER, order=BY_HEAD, reuse=ONE_LAYOUT),
    "axes, residual": setting(
        by_mass(0.95), FIRST_LAYER, order=BY_HEAD, reuse=ONE_LAYOUT, compensate=residual()
    ),
    "today": setting(by_layer(0.4)),
    "today@0.25": setting(by_layer(0.25)),
    "first layer": setting(by_layer(0.41), FIRST_LAYER),
    "first layer, until drift": setting(by_layer(0.41), FIRST_LAYER, reuse=UNTIL_DRIFT),
    "first layer, by velocity": setting(by_velocity(), FIRST_LAYER),
    "first layer, rectified": setting(by_layer(0.41), FIRST_LAYER, compensate={"kind": "rectified"}),
    # 64 probes are 0.028 of these sequences.
    "first layer, probed": setting(by_layer(0.382), FIRST_LAYER, compensate={"kind": "probed"}),
    "first layer, frozen": setting(by_layer(0.41), FIRST_LAYER, reuse={"steps": 1000}),
    "one layout": setting(by_layer(0.41), FIRST_LAYER, reuse=ONE_LAYOUT),
    "by mass": setting(by_mass(0.95), FIRST_LAYER, reuse=ONE_LAYOUT),
    "by mass, frozen": setting(by_mass(0.95), FIRST_LAYER, reuse=ONE_LAYOUT | {"steps": 1000}),
    "residual": setting(by_mass(0.95), FIRST_LAYER, reuse=ONE_LAYOUT, compensate=residual()),
    # The blocks that a residual is captured for serve three steps, so these share what they would have.
    "residual, by velocity": setting(
        by_velocity((0.5, 0.633), *BY_VELOCITY[3:]), FIRST_LAYER, reuse=ONE_LAYOUT, compensate=residual()
    ),
    # Three of eight steps dense, the rest of the same work where the velocity moves most.
    "residual, three dense": setting(
        by_velocity((0.625, 0.38), (0.75, 0.16)),
        FIRST_LAYER | {"dense_steps": 0.375},
        reuse=ONE_LAYOUT,
        compensate=residual(),
    ),
    "residual, int4": setting(
        by_mass(0.95), FIRST_LAYER, reuse=ONE_LAYOUT, compensate=residual(store="int4")
    ),
    "residual, rank 8": setting(
        by_mass(0.95), FIRST_LAYER, reuse=ONE_LAYOUT, compensate=residual(store={"rank": 8})
    ),
    "residual, 0.9": setting(by_mass(0.9), FIRST_LAYER | REFRESHED, reuse=ONE_LAYOUT, compensate=residual()),
    "refreshed, 0.9": setting(by_mass(0.9), FIRST_LAYER | REFRESHED, reuse=ONE_LAYOUT | {"steps": 1000}),
    # What the demo's recipe ships: of 24 steps one is a refresh, and each residual serves all of its life.
    "shipped": setting(
        by_mass(0.95), FIRST_LAYER | {"dense_every": 0.35}, reuse=ONE_LAYOUT, compensate=residual()
    ),
    "residual, whole": setting(
        by_mass(0.95), FIRST_LAYER, reuse=ONE_LAYOUT, compensate=residual(max_progress=1.0)
    ),
}


def few_steps(dense: int, density: float, compensated: bool, **store: Any) -> dict[str, Any]:
    """A schedule of four steps, for models without guidance: its first `dense` steps dense."""
    rest = {"compensate": residual(**store)} if compensated else {}
    return setting(by_layer(density), {"dense_steps": dense / 4}, **rest)


SETTINGS |= {
    f"{dense} dense, {density:g}{', residual' if compensated else ''}": few_steps(dense, density, compensated)
    for density in (0.2, 0.3, 0.4, 0.5)
    for dense in (0, 1, 2)
    for compensated in (False, True)
    if dense or not compensated
}
RISING = {
    "kind": "top_k",
    "density": {"ramp": [[0.25, 0.24], [0.75, 0.36]]},
    "budget": "layer",
    "row_density": 0.12,
}
SETTINGS["1 dense, 0.3, rank 8"] = few_steps(1, 0.3, compensated=True, store={"rank": 8})
SETTINGS["1 dense, 0.3 rising"] = setting(RISING)

# recipes/auto.yaml, brought to this number of tokens and to the work of another recipe.
AUTO_REUSE = {"reuse": {"steps": 5, "max_progress": 0.11, "branches": True}}
AUTO_SCHEDULE = {"dense_steps": 0.2, "dense_layers": 0.03}
SETTINGS |= {
    name: setting(by_layer(0.333), AUTO_SCHEDULE, block_size=block_size, **AUTO_REUSE)
    for name, block_size in {"auto, 0.333": (128, 64), "auto, 0.333, 32 x 32": BLOCK}.items()
}


def auto(density: float, dense_every: float = 0, **rest: Any) -> dict[str, Any]:
    """recipes/auto.yaml in blocks of 32 x 32, whatever the number of tokens."""
    every = {"dense_every": dense_every} if dense_every else {}
    return setting(by_layer(density), AUTO_SCHEDULE | every, **AUTO_REUSE, **rest)


RANK_8 = {"compensate": residual(store={"rank": 8})}
SETTINGS |= {
    "auto": auto(0.3),
    "auto, residual": auto(0.3, **RANK_8),
    # The work of one refresh, taken from the density: 24 steps, 5 of them dense.
    "auto, residual, refreshed": auto(0.261, 0.4, **RANK_8),
}


def once(mass: float, by_row: bool, **rest: Any) -> dict[str, Any]:
    """What holds a share of the exact mass at one step, for all later ones: of every row, or of a layer."""
    select = {"kind": "top_p", "mass": mass} if by_row else by_mass(mass)
    return setting(select, FIRST_LAYER, {"kind": "exact"}, reuse=ONE_LAYOUT | {"steps": 1000}, **rest)


SETTINGS |= {
    f"once, {mass:g}{name}": once(mass, not name.startswith(", by layer"), **rest)
    for mass in (0.98, 0.97, 0.95)
    for name, rest in {
        "": {},
        ", residual": RANK_8,
        ", by layer, residual": RANK_8,
    }.items()
}
SETTINGS |= {
    f"residual, {mass:g}": setting(by_mass(mass), FIRST_LAYER, reuse=ONE_LAYOUT, compensate=residual())
    for mass in (0.97, 0.98)
}
