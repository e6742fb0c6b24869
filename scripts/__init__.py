"""What measures, trains and makes pages; run from the repository root, `python -m scripts.gpu.check`."""
