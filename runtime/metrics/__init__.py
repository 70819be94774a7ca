"""Metrics: counted in each process, summed in the parent, and answered by any worker at /metrics."""
