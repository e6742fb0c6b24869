"""A pytest plugin: text encoders take LoRA with the installed peft, where transformers asks for a newer one.

transformers 5.24 asks for peft 0.22, and 0.21 is the newest that is published.
"""

from __future__ import annotations


def pytest_configure() -> None:
    from transformers.integrations import peft

    peft.MIN_PEFT_VERSION = "0.21"
