"""Switch: from an attention implementation with its own masks to PyTorch's or the model's eager one.

Masks for FlashAttention or FlexAttention do not say what each query sees in a form that is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accel.patches.transformers.sites import attention_modules, stock_config

KEPT = ("sdpa", "eager")


@dataclass(frozen=True)
class Switch:
    """Which of a model's configurations use which implementation while accelerated, and used before.

    Args:
        ours, before: by dotted path among the sub-configurations, only those that change; the empty path is
            the model's own.
    """

    ours: dict[str, str]
    before: dict[str, str]

    @classmethod
    def of(cls, model: Any) -> Switch:
        """The switch of those configurations that causal attention reads: a vision tower has its own."""
        used = {id(stock_config(module)) for _, module in attention_modules(model)}
        before = {
            path: config._attn_implementation for path, config in configs(model.config) if id(config) in used
        }
        # Stacks of an encoder-decoder have copies of the model's configuration that no path leads to.
        before = before or {"": model.config._attn_implementation}
        before = {path: name for path, name in before.items() if name not in KEPT}
        return cls(dict.fromkeys(before, kept_for(model)), before)

    def on(self, model: Any) -> None:
        if self.ours:
            model.set_attn_implementation(nested(self.ours))

    def off(self, model: Any) -> None:
        """Set back what was there before; an implementation the user has set since is left alone."""
        now = {path: config._attn_implementation for path, config in configs(model.config)}
        back = {path: name for path, name in self.before.items() if now[path] == self.ours[path]}
        if back:
            model.set_attn_implementation(nested(back))


def kept_for(model: Any) -> str:
    """The implementation that a model is switched to."""
    return "sdpa" if model._supports_sdpa else "eager"


def configs(config: Any, path: str = "") -> list[tuple[str, Any]]:
    """A configuration and all below it, by dotted path."""
    found = [(path, config)]
    for key in config.sub_configs:
        below = getattr(config, key, None)
        if below is not None:
            found += configs(below, f"{path}.{key}" if path else key)
    return found


def nested(names: dict[str, str]) -> dict[str, Any]:
    """Dotted paths as the nested mapping that `set_attn_implementation` takes."""
    tree: dict[str, Any] = {}
    for path, name in names.items():
        node = tree
        for key in path.split(".") if path else ():
            node = node.setdefault(key, {})
        node[""] = name
    return tree
