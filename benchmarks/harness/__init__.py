"""What all benchmarks share: servers to measure, clocks, tables and progress."""
