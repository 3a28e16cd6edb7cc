"""What the blocks of a mask take, each alone: how far seconds follow multiply-accumulates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dipgo_compile.measure.profile import matmul_rate, profile
from dipgo_compile.program import PROLOGUE
from dipgo_compile.runtime import Runtime

REPEATS = 3  # times that a block is run
Json = dict[str, Any]


def time_blocks(bundle: Path, threads: int) -> Json:
    """Seconds of an image if every block took what it takes alone: of the blocks that the mask keeps, and of
    all blocks at all calls.
    """
    with Runtime.load(bundle, threads=threads, verify=False) as runtime:
        times, rate, program = profile(runtime, REPEATS), matmul_rate(), runtime.plan.program
    once = {run.engine for run in program.runs() if run.call == PROLOGUE}
    blocks = [time for time in times if time.engine not in once]
    return {
        "blocks": len(blocks),
        "seconds_kept": sum(time.seconds * time.runs for time in blocks),
        "seconds_all": sum(time.seconds for time in blocks) * len(program.calls),
        "macs_per_second": rate,
    }
