"""What it costs to fold: `python -m benchmarks.folding`."""
