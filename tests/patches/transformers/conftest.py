"""Inference of tiny language models: one thread, no gradients."""

import torch
from pytest import fixture


@fixture
def inference():
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
