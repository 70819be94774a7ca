"""What the indexes of lists cost: `python -m benchmarks.indexes`."""
