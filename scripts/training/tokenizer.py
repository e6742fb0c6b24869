"""Word-level tokenizers: one token for each word of a small vocabulary."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def word_tokenizer(words: list[str], template: str, unknown: str, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that lower-cases a text and gives each word its place in `words` as id.

    Args:
        template: "$A", the text, with one special token in front of it or behind it.
        unknown: the word that all others are read as.
        options: of PreTrainedTokenizerFast, its special tokens among them.
    """
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (added,) = set(template.split()) - {"$A"}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(added, words.index(added))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)
