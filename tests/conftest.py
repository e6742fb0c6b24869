"""What every test relies on: determinism, few threads, no network, and no fault that is passed over."""

import os
import sys
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
# A sparse call that fails must fail its test, not go on dense.
os.environ["ACCEL_STRICT"] = "1"
# No test waits for a tier to be tried unless it is about that.
os.environ["ACCEL_CHECK"] = "0"
SUPPORT = Path(__file__).parent / "support"
sys.path[:0] = map(str, (SUPPORT, SUPPORT / "models", SUPPORT / "pipelines"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
