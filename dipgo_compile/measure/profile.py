"""How long each engine of a bundle takes, beside what its multiply-accumulates would take at best.

The yardstick is the rate of a large float32 matrix product on the same threads, or of the fastest engine
where that is faster. An engine that comes near it is bound by arithmetic; one that does not is bound by
memory, by small operators, or by being called.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dipgo_compile.plan import Plan
from dipgo_compile.runtime import Runtime

WARMUP = 2  # ONNX Runtime's first two runs are slower: its memory grows
REPEATS = 5
PRODUCT = 1536  # rows and columns of the yardstick's matrices: 28 MB, more than a core's caches hold


@dataclass(frozen=True, slots=True)
class EngineTime:
    """``runs`` an image; ``macs`` of one run, None where the bundle doesn't say. Seconds are of one run:
    ``least_seconds`` is what the multiply-accumulates would take at the rate of the yardstick.
    """

    engine: str
    runs: int
    macs: int | None
    least_seconds: float | None
    seconds: float


def profile(runtime: Runtime, repeats: int = REPEATS) -> tuple[EngineTime, ...]:
    """Time every engine of a loaded bundle alone, median of ``repeats`` runs. Raises BackendError."""
    plan = runtime.plan
    runs = Counter(run.engine for run in plan.program.runs())
    seconds = {engine: _median(step, repeats) for engine, step in runtime.session().engine_steps().items()}
    macs = {engine: count for engine in seconds if (count := _macs_of_run(plan, engine)) is not None}
    rate = max([matmul_rate(repeats), *(count / seconds[engine] for engine, count in macs.items())])
    return tuple(
        EngineTime(
            engine,
            runs[engine],
            macs.get(engine),
            macs[engine] / rate if engine in macs else None,
            taken,
        )
        for engine, taken in seconds.items()
    )


def matmul_rate(repeats: int = REPEATS) -> float:
    """Multiply-accumulates a second of a large float32 matrix product in numpy, on all its threads."""
    left = np.ones((PRODUCT, PRODUCT), np.float32)
    result = np.empty_like(left)
    return PRODUCT**3 / _median(lambda: np.matmul(left, left, out=result), repeats)


def _macs_of_run(plan: Plan, engine: str) -> int | None:
    """The bundle counts them for one sample; a run computes all samples of its batch."""
    macs = plan.engine_macs.get(engine)
    batch = plan.program.specs[plan.program.calls[0].noise_preds[0]].shape[0]
    return None if macs is None else macs * batch


def _median(step: Callable[[], object], repeats: int) -> float:
    for _ in range(WARMUP):
        step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
