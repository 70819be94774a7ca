"""Benchmarks: how fast deliveries are taken beside what else one could do, and how soon they show.

`python -m benchmarks.ingest` and `python -m benchmarks.lag`. Every number is measured on the machine at hand, in one
run, with everything that it is compared with.
"""
