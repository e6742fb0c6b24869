"""The methods a recipe can name."""

from accel.policies.registry import POLICIES, register_policy

__all__ = ["POLICIES", "register_policy"]
