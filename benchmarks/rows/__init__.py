"""Rows that only benchmarks have, beside ``dipgo_compile.measure.rows``: other people's ways to be fast."""

MODULES = {
    "torch-compile": "benchmarks.rows.torch_compile",
    "supernet-compile": "benchmarks.rows.supernet_compile",
    "deepcache": "benchmarks.rows.deepcache",
}
"""Rows of other names are modules of ``dipgo_compile.measure.rows``."""
