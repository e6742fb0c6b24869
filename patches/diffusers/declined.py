"""DECLINED: the transformers of diffusers that are not accelerated, each with the reason."""

from __future__ import annotations

from collections import Counter

from torch import nn

from accel.patches.class_names import known_name

_LINEAR = "its self-attention is already linear: there is nothing to leave out"
_AUDIO = "an audio model: its sequence is one-dimensional and short"
_BUCKETS = (
    "its pipeline puts every picture into a bucket of about 1024 x 1024 pixels: with one it edits, 8,192 "
    "tokens, where dense attention is a small share of the time"
)
_SHORT = "its attention runs over the tokens of one frame, or over the frames of one token: both are short"

DECLINED: dict[str, str] = {
    "AceStepTransformer1DModel": _AUDIO,
    "AuraFlowTransformer2DModel": (
        "its positions are a learned table for pictures of the size it was trained at; larger ones have none"
    ),
    "BriaFiboTransformer2DModel": "its pipeline masks every call by a matrix that hides queries and keys",
    "ChromaTransformer2DModel": (
        "its pipeline adds its text mask, of zeros and ones, to the logits, unlike a list of blocks"
    ),
    "DiTTransformer2DModel": "its images have the one size it was trained at, of at most 1,024 tokens",
    "DreamLiteTransformer2DModel": "it is a part of DreamLite's UNet, which is accelerated whole",
    "HiDreamImageTransformer2DModel": (
        "its pipeline scales every picture to the area of 1024 x 1024 pixels, 4,096 tokens, where dense "
        "attention is a small share of the time"
    ),
    "HunyuanDiT2DModel": (
        "its pipeline maps every picture to one of at most 1280 x 1280 pixels, 6,400 tokens, where dense "
        "attention is a small share of the time"
    ),
    "Ideogram4Transformer2DModel": "it masks every call with a matrix of segments that may see each other",
    "JoyImageEditPlusTransformer3DModel": _BUCKETS,
    "JoyImageEditTransformer3DModel": _BUCKETS,
    "Kandinsky6SRTransformer3DModel": (
        "it is trained with NABLA, block-sparse attention of its own, which it runs in flex attention"
    ),
    "LatteTransformer3DModel": _SHORT,
    "LongCatAudioDiTTransformer": _AUDIO,
    "LuminaNextDiT2DModel": "its softmax scale grows with the picture, and sparse calls take the usual one",
    "MiniMaxMusic3RVQDepthDecoder": _AUDIO,
    "MiniMaxMusic3Transformer1DModel": _AUDIO,
    "OmniGenTransformer2DModel": "it masks every call by a matrix of which tokens see which",
    "PriorTransformer": "it makes one embedding, not an image",
    "RFD4ProteinaTransformer": "a protein model",
    "SanaTransformer2DModel": _LINEAR,
    "SanaVideoTransformer3DModel": _LINEAR,
    "SanaWMLTX2RefinerTransformer3DModel": (
        "it refines three latent frames at a time beside at most eight kept ones, so its calls stay short "
        "however long the video"
    ),
    "SanaWMTransformer3DModel": (
        "three of four of its layers are linear, and the others call PyTorch's attention themselves, with no "
        "processor to replace"
    ),
    "StableAudio3DiTModel": _AUDIO,
    "StableAudioDiTModel": _AUDIO,
    "T5FilmDecoder": _AUDIO,
    "Transformer2DModel": (
        "it is a part of UNets, which are accelerated whole; VQ Diffusion, which ran it by itself, has 1,024 "
        "tokens"
    ),
    "TransformerTemporalModel": _SHORT,
}


def why_not(model: nn.Module) -> str:
    """Why a model that belongs to no family is not accelerated, in a sentence."""
    name = type(model).__name__
    if declined := known_name(model, DECLINED):
        return f"{name} is left as it is: {DECLINED[declined]}."
    attention = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    routable = Counter(
        f"{type(module).__name__} with {type(module.processor).__name__}"
        for module in model.modules()
        if getattr(module, "processor", None) is not None
    )
    if routable:
        return (
            f"Found {counted(routable)} in {name}; not supported because no family says what its tokens are. "
            'CONTRIBUTING.md, "Add a model", says how to add one.'
        )
    if not attention:
        return f"{name} has no attention module."
    kinds = Counter(type(module).__name__ for module in attention)
    return f"Found {counted(kinds)} in {name}; not supported because they have no processor to replace."


def counted(kinds: Counter[str]) -> str:
    """ "2 attention modules that look like A and 1 that looks like B"."""
    first, *rest = kinds.items()
    noun = "attention module that looks" if first[1] == 1 else "attention modules that look"
    others = (f"{count} that look{'s' if count == 1 else ''} like {kind}" for kind, count in rest)
    return " and ".join([f"{first[1]} {noun} like {first[0]}", *others])
