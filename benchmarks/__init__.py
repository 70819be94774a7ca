"""Benchmarks: how fast deliveries are taken beside what else one could do, how soon they show, how fast rebuilds are.

`python -m benchmarks.ingest`, `python -m benchmarks.lag`, `python -m benchmarks.rebuild`; `make bench` runs a short
version of each. `python -m benchmarks.folding` is what folding costs in memory, beside another checkout. Every number
is measured on the machine at hand, in one run, with everything that it is compared with.
"""
