"""The methods a recipe can name."""

from accel.policies.registry import POLICIES, find_policy, register_policy, registered_policies

__all__ = ["POLICIES", "find_policy", "register_policy", "registered_policies"]
