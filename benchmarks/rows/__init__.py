"""Rows that only benchmarks have, beside ``dipgo_compile.measure.rows``: other people's ways to be fast,
and the plan in other memory modes.
"""

MODULES = {
    "torch-compile": "benchmarks.rows.torch_compile",
    "supernet-compile": "benchmarks.rows.supernet_compile",
    "deepcache": "benchmarks.rows.deepcache",
    "plan-low": "benchmarks.rows.plan_low",
    "plan-fast": "benchmarks.rows.plan_fast",
}
"""Rows of other names are modules of ``dipgo_compile.measure.rows``."""
