"""Declared benchmarks: ``python -m benchmarks list``. Their results are JSON files in ``results/``."""
