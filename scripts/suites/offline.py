"""A pytest plugin: tiny random models and tokenizers in place of the hub's, where it cannot be reached.

What the hub does give is used. Tests that compare with numbers of the hub's models fail with these, stock
too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, T5Config
from transformers.utils import cached_file

LETTERS = [chr(code) for code in range(33, 127)]
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHORT = TEXT | {"vocab_size": 1000, "pad_token_id": 0}
ROPE = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
QWEN = TEXT | {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 1000, "rope_parameters": ROPE}
SEEING = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
T5 = {"vocab_size": 1103, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 5, "num_heads": 4}
CLIP = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}

# The end of the hub's name: the arguments of a configuration, in sizes that the tests' other models expect.
SIZES: dict[str, dict[str, Any]] = {
    "tiny-random-t5": T5,
    "tiny-clip-text-2": CLIP | {"vocab_size": 1000, "projection_dim": 32},
    "tiny-sd3-text_encoder": CLIP | {"vocab_size": 1000, "projection_dim": 32},
    "tiny-sd3-text_encoder-2": CLIP | {"vocab_size": 1000, "projection_dim": 32},
    "tiny-random-hunyuanvideo/text_encoder": SHORT | {"hidden_size": 16},
    "tiny-random-hunyuanvideo/text_encoder_2": CLIP
    | {"hidden_size": 8, "vocab_size": 1000, "projection_dim": 8},
    "tiny-random-cogview4/text_encoder": SHORT | {"head_dim": 8},
    "tiny-random-Qwen2VLForConditionalGeneration": {
        "text_config": QWEN,
        "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
    },
    "tiny-random-Qwen25VLForCondGen": {
        "text_config": QWEN,
        "vision_config": SEEING | {"out_hidden_size": 16},
    },
    "tiny-mistral3-diffusers": {
        "text_config": SHORT
        | {"hidden_size": 16, "model_type": "mistral", "vocab_size": 1103, "num_hidden_layers": 1},
        "vision_config": SHORT
        | {"hidden_size": 16, "model_type": "pixtral", "image_size": 30, "patch_size": 6},
    },
    "tiny-gemma3": {
        "text_config": TEXT | {"vocab_size": 1000, "head_dim": 8},
        "vision_config": CLIP | {"image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
    },
}


def sizes(name: str, folder: str) -> dict[str, Any]:
    """The sizes of a model of the hub, or of a folder of it.

    Raises:
        KeyError: if it is not in the list.
    """
    return SIZES["/".join(filter(None, [name.rpartition("/")[2], folder]))]


def tokens(*special: str) -> dict[str, int]:
    """A vocabulary of letters after the special tokens."""
    return {token: number for number, token in enumerate(dict.fromkeys([*special, *LETTERS]))}


# A tokenizer's class: what it is constructed of. All of them read single letters.
VOCABULARIES: dict[str, Callable[[], dict[str, Any]]] = {
    "CLIPTokenizer": lambda: {
        "vocab": tokens("<|endoftext|>", "<|startoftext|>", *(letter + "</w>" for letter in LETTERS)),
        "merges": [],
        "model_max_length": 77,
    },
    "Qwen2Tokenizer": lambda: {
        "vocab": tokens("<|endoftext|>", "Ġ", "Ċ"),
        "merges": [],
        "chat_template": CHAT,
    },
    "LlamaTokenizer": lambda: {
        "vocab": tokens("<unk>", "<s>", "</s>", "▁"),
        "merges": [],
        "pad_token": "<unk>",
    },
    "GemmaTokenizer": lambda: {"vocab": tokens("<pad>", "<eos>", "<bos>", "<unk>", "▁"), "merges": []},
    "T5Tokenizer": lambda: {
        "vocab": [(token, -1.0) for token in tokens("<pad>", "</s>", "<unk>", "▁")],
        "chat_template": CHAT,
    },
}


def tokenizer(cls: Any) -> Any:
    """A tokenizer of a class; of T5's where the class is to be found out from the hub.

    Raises:
        KeyError: if the class is not in the list.
    """
    cls = cls if issubclass(cls, PreTrainedTokenizerBase) else transformers.T5Tokenizer
    return cls(**{"model_max_length": 512} | VOCABULARIES[cls.__name__]())


def model(cls: Any, name: str, folder: str) -> Any:
    """A random model of a class, the same each time.

    Raises:
        KeyError: if its sizes are not in the list.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(cls.config_class(**sizes(name, folder))).eval()


def where_absent(owner: Any, file: str, make: Callable[[Any, str, str], Any]) -> None:
    """Have a class's `from_pretrained` make what the lists know and the hub does not give this file of."""
    original = owner.from_pretrained.__func__

    @functools.wraps(original)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        name = str(args[0] if args else kwargs.get("pretrained_model_name_or_path"))
        folder = kwargs.get("subfolder") or ""
        try:
            if not has_file(name, file, folder):
                return make(cls, name, folder)
        except KeyError:
            pass
        return original(cls, *args, **kwargs)

    owner.from_pretrained = classmethod(from_pretrained)


def has_file(name: str, file: str, folder: str) -> bool:
    """Whether a folder or the hub gives a file."""
    if Path(name).exists():
        return True
    try:
        return cached_file(name, file, subfolder=folder) is not None
    except OSError:
        return False


def pytest_configure() -> None:
    where_absent(PreTrainedModel, "config.json", model)
    where_absent(PreTrainedConfig, "config.json", lambda cls, *where: cls(**sizes(*where)))
    where_absent(transformers.AutoConfig, "config.json", lambda _, *where: T5Config(**sizes(*where)))
    for owner in (PreTrainedTokenizerBase, transformers.AutoTokenizer, transformers.AutoProcessor):
        where_absent(owner, "tokenizer_config.json", lambda cls, *_: tokenizer(cls))
