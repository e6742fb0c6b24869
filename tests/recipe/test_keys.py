"""Every key that a recipe can set is set by a shipped one, or kept for a reason that is written here."""

from accel.recipe.files import shipped_data, shipped_recipes
from accel.recipe.recipe import recipe_schema

RESIDUAL = "how residuals are kept, for models whose residuals would take gigabytes"
TABLE = "tables by layer and head, as `accel recipes from-plan` and `learn_axes` make them"
COST = "what the search reads: a parameter of the published method (arXiv 2406.09827, 2502.08910)"
KEPT = {
    **dict.fromkeys(("transport", "branch_decay", "device"), RESIDUAL),
    **dict.fromkeys(("parts", "until", "heads"), TABLE),
    **dict.fromkeys(("query_stride", "key_stride"), COST),
    "by": "a share of the noise, for schedules that are shifted towards it",
    "causal": "windows along an axis that a model was trained with (arXiv 2504.16922)",
    "dense_backend": "what dense calls run on depends on what the user has installed",
    "file": "masks found on the user's own model (arXiv 2506.16054)",
    "layer_density": "what `accel tune` writes",
    "precision": "rounding is for the user to allow (docs/kernels.md)",
    "recent_share": "spans of published plans (arXiv 2406.14909)",
    "reduction": "parity with the published masks of radial attention",
}


def keys_in(data) -> set[str]:
    """The keys of all mappings in plain data."""
    if isinstance(data, dict):
        return {*data, *(key for value in data.values() for key in keys_in(value))}
    return {key for value in data for key in keys_in(value)} if isinstance(data, list) else set()


def test_no_key_is_there_for_nobody():
    known = {key for noun in recipe_schema()["$defs"].values() for key in noun.get("properties", {})}
    shipped = {key for name in shipped_recipes() for key in keys_in(shipped_data(name))}
    assert known - shipped == set(KEPT)
