"""The methods a recipe can name."""

from accel.policies.compose import Composed
from accel.policies.dense import Dense
from accel.policies.draft import Draft
from accel.policies.hip import Hip
from accel.policies.permuted import Permuted
from accel.policies.policy import Policy
from accel.policies.radial import Radial

POLICIES: dict[str, type[Policy]] = {
    "dense": Dense,
    "radial": Radial,
    "draft": Draft,
    "permuted": Permuted,
    "hip": Hip,
    "compose": Composed,
}
