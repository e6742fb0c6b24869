"""What every test relies on: determinism, few threads, and no network."""

import os
import sys
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent / "support"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
