"""Benchmarks: `python -m benchmarks.NAME`. Ratios within one run, never timed tests."""
