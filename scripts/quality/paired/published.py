"""Published methods as settings of `paired`, at the work of `first layer`: 0.41 of a sparse call's blocks."""

from __future__ import annotations

from typing import Any

from accel.policies.parts.mask_file import AXES
from scripts.quality.paired.settings import by_layer, by_velocity

BLOCK = [32, 32]
SHARE = 0.41
SCHEDULE = {"dense_steps": 0.25, "dense_layers": 0.1}
SAMPLED = {"kind": "sampled_rows", "rows": 64}
HEAD = {"kind": "top_k", "density": SHARE, "budget": "head"}
ROW = {"kind": "top_k", "density": SHARE}
STRIDED = {"kind": "strided", "query": 8, "key": 8}
PLACES = {"kind": "axes", "axes": "hwf"}
TILE = {"kind": "tile", "size": [1, 4, 8]}
HILBERT = {"kind": "hilbert"}


def composed(**parts: Any) -> dict[str, Any]:
    return {"method": "compose", "block_size": BLOCK, **parts}


def by_head(*candidates: dict[str, Any]) -> dict[str, Any]:
    return {"method": "per_head", "choose": SAMPLED, "candidates": list(candidates)}


METHODS: dict[str, dict[str, Any]] = {
    "a-shape": composed(always={"first_frame": True, "window": {"size": [3, 16, 16]}}),
    "biformer": composed(order=TILE, score={"kind": "pooled"}, select=ROW),
    "blade-asa": composed(
        order=HILBERT,
        score={"kind": "sampled", "per_block": 16},
        select={"kind": "top_p", "mass": 0.99, "min_density": 0.05, "max_density": 0.5},
        tail=True,
    ),
    "combiner": composed(always={"window": {"size": [3, 16, 16]}}, tail=True),
    "dilated": composed(
        order={"kind": "residues", "strides": [1, 1, 2]},
        always={"window": {"size": [9, 10, 8], "dilation": [1, 1, 2]}},
    ),
    "draft": {"method": "draft", "density": 0.405, "region": [2, 16], "block_size": BLOCK},
    "freeswim": composed(order={"kind": "tile", "size": [2, 4, 4]}, always={"window": {"size": [9, 8, 8]}}),
    # Half the blocks: fewer than two windows do not move.
    "hidiffusion": composed(order={"kind": "windows", "count": [1, 1, 2], "shifts": 4}),
    "hip": {"method": "hip", "density": 0.385, "block_size": BLOCK},
    "hyperattention": composed(order={"kind": "hashed"}, score={"kind": "pooled"}, select=HEAD, tail=True),
    "jenga": composed(
        order=HILBERT,
        score={"kind": "pooled"},
        select={"kind": "top_p", "mass": 0.5, "min_density": 0.405},
        always={"adjacent": True},
    ),
    "nabla": composed(
        order=TILE,
        score={"kind": "pooled"},
        select={"kind": "top_p", "mass": 0.93},
        always={"window": {"size": [5, 4, 8], "stride": [1, 4, 8]}},
    ),
    "neighbourhood": composed(
        order={"kind": "tile", "size": [2, 4, 4]}, always={"window": {"size": [6, 9, 9], "stride": [2, 4, 4]}}
    ),
    "paroattention": by_head(
        *(composed(order={"kind": "axes", "axes": axes}, score=STRIDED, select=HEAD) for axes in AXES)
    ),
    "permuted": {"method": "permuted", "select": ROW, "block_size": BLOCK},
    "pisa": composed(order=HILBERT, score={"kind": "pooled"}, select=ROW, tail=True),
    # No decay leaves out more blocks of this size: at its own work.
    "radial": {"method": "radial", "decay": 0.05, "block_size": BLOCK},
    "reference-frames": composed(always={"own_frame": True, "reference_frames": 1}),
    "sliding-tile": composed(order=TILE, always={"window": {"size": [5, 12, 12], "stride": [1, 4, 8]}}),
    "sol-attn": composed(
        score={"kind": "pooled"},
        select={"kind": "deviation", "beta": 0.25},
        always={"neighbours": 1},
        tail=True,
    ),
    "spargeattn": composed(
        score={"kind": "pooled", "self_similarity": 0.3}, select={"kind": "top_k", "density": 0.38}
    ),
    "sparse-videogen": by_head(
        composed(always={"band": 0.32, "first_frame": True}), composed(order=PLACES, always={"band": 0.42})
    ),
    "sparse-videogen2": composed(
        order={"kind": "clusters", "count": 64, "rounds": 4}, score={"kind": "pooled"}, select=HEAD
    ),
    "sub-block": composed(score={"kind": "sub_block", "query": 16, "key": 16}, select=ROW),
    "vmoba": composed(
        order={"kind": "cycle", "orders": [{"kind": "row_major"}, PLACES, TILE]},
        score={"kind": "pooled"},
        select=HEAD,
    ),
    "xattention": composed(
        score={"kind": "antidiagonal", "stride": 16}, select={"kind": "top_p", "mass": 0.945}
    ),
}


def recipe(policy: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"schedule": SCHEDULE, "rules": [{"match": "*", "policy": policy}], **rest}


PUBLISHED: dict[str, dict[str, Any]] = {name: recipe(policy) for name, policy in METHODS.items()}
# Keeps what holds 0.99 of each row's mass at the first sparse step: at its own work.
PUBLISHED["near-lossless"] = recipe(
    composed(score={"kind": "exact"}, select={"kind": "top_p", "mass": 0.99}), reuse={"steps": 1000}
)
PUBLISHED["heart"] = recipe(
    composed(score={"kind": "antidiagonal", "stride": 8}, select=ROW),
    reuse={"steps": 1000, "max_drift": 0.23},
)
PUBLISHED["rectified"] = recipe(
    composed(score={"kind": "pooled"}, select=ROW), compensate={"kind": "rectified"}
)
PUBLISHED["first layer, turns"] = recipe(composed(score=STRIDED, select=by_layer(SHARE), turns=0.5))
PUBLISHED["pasa"] = recipe(
    composed(
        score={"kind": "pooled"}, select={**ROW, "density": by_velocity()["density"]}, turns=0.5, tail=True
    )
)
# 64 probes are 0.028 of these sequences.
PUBLISHED["sparsepr"] = recipe(
    composed(
        order={"kind": "clusters", "count": 64, "rounds": 4},
        score={"kind": "pooled"},
        select={**HEAD, "density": 0.382},
    ),
    compensate={"kind": "probed"},
)
