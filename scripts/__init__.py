"""Measurements, training and pages; run from the repository root as `python -m scripts.gpu.check`."""
