"""What every test relies on: determinism, few threads, no network, and no fault that is passed over."""

import os
import sys
from contextlib import contextmanager
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


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread():
    with threads(1):
        yield


@pytest.fixture
def two_threads():
    with threads(2):
        yield
