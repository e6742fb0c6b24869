"""The methods a recipe can name."""

from accel.policies.registry import find_policy, register_policy, registered_policies

__all__ = ["find_policy", "register_policy", "registered_policies"]
