"""How fast a mask's plan is: ``dipgo-compile build`` and ``bench`` in one go."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.scenarios import SpeedScenario
from dipgo_compile.bench import BenchOptions, Progress, bench
from dipgo_compile.build import build
from dipgo_compile.mask import Mask


def run(
    scenario: SpeedScenario,
    file: Path,
    *,
    repeats: int | None,
    threads: int | None,
    command: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Build the scenario's mask, time it and write ``file``."""
    with tempfile.TemporaryDirectory(prefix="dipgo-speed-") as directory:
        path = build(Mask.load(scenario.mask), output=Path(directory) / f"{scenario.name}.dipgo").path
        options = BenchOptions(versus=scenario.versus, repeats=repeats or scenario.repeats, threads=threads)
        content = bench(path, options, command=[command], progress=progress).to_json()
    results.write(file, content)
    return content
