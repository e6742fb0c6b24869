"""Frames a second at which a model's videos are meant to be played, by the class of its transformer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

USUAL = 24.0

# As the models were trained, or as their authors' examples write them.
RATES: dict[str, float] = {
    "WanTransformer3DModel": 16,
    "WanVACETransformer3DModel": 16,
    "WanAnimateTransformer3DModel": 30,
    "ChronoEditTransformer3DModel": 16,
    "SkyReelsV2Transformer3DModel": 24,
    "HunyuanVideoTransformer3DModel": 24,
    "HunyuanVideo15Transformer3DModel": 24,
    "HunyuanVideoFramepackTransformer3DModel": 30,
    "LTXVideoTransformer3DModel": 25,
    "LTX2VideoTransformer3DModel": 24,
    "CogVideoXTransformer3DModel": 8,
    "ConsisIDTransformer3DModel": 8,
    "MochiTransformer3DModel": 30,
    "CosmosTransformer3DModel": 30,
    "Cosmos3OmniTransformer": 24,
    "Kandinsky5Transformer3DModel": 24,
    "AllegroTransformer3DModel": 15,
    "EasyAnimateTransformer3DModel": 8,
    "MotifVideoTransformer3DModel": 24,
    "HeliosTransformer3DModel": 24,
    "MiniMaxH3Transformer3DModel": 24,
}

# Arguments by which some pipelines are given the rate; the default of one that is there is the model's own.
RATE_ARGUMENTS = ("frame_rate", "fps")


def own_rate(pipeline: type, transformer: str, config: Mapping[str, Any]) -> float:
    """A model's own rate: its pipeline's default where it takes one, else by class and configuration."""
    for name, parameter in inspect.signature(pipeline.__call__).parameters.items():
        if name in RATE_ARGUMENTS and isinstance(parameter.default, int | float):
            return float(parameter.default)
    if transformer == "CogVideoXTransformer3DModel" and config.get("patch_size_t"):
        return 16.0  # CogVideoX 1.5
    if transformer == "WanTransformer3DModel" and config.get("in_channels") == 48:
        return 24.0  # Wan 2.2 TI2V-5B
    return float(RATES.get(transformer, USUAL))
