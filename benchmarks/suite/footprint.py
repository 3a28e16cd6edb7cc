"""What a bundle takes besides seconds: loading, size on disk, and memory of processes that are alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.suite.options import Footprint
from benchmarks.suite.turns import spread
from dipgo_compile.bundle import CACHE
from dipgo_compile.errors import DipgoError
from dipgo_compile.measure.rows import Job
from dipgo_compile.measure.worker import Worker
from dipgo_compile.models.source import load

Json = dict[str, Any]


def measure(job: Job, wanted: Footprint, calls: int, step: Callable[[str], None]) -> Iterator[Json]:
    """A footprint that grows: without peaks first, then with one more at a time. ``calls`` are made for a
    peak; ``step`` is told what comes next.
    """
    seconds = []
    for index in range(1 + wanted.loads):  # the first makes the cache and warms the page cache
        step("load")
        with Worker("plan", job) as worker:
            seconds += [worker.load_seconds] if index else []
    peaks: list[Json] = []
    footprint = {
        "load_seconds": spread(seconds),
        **_sizes(Path(job.bundle)),
        "weight_bytes": _weight_bytes(job.source),
        "peaks": peaks,
    }
    yield footprint
    for row, memory in wanted.peaks:
        step(f"memory of {row}{'' if memory is None else f', {memory}'}")
        peak: Json = {"row": row, "memory": memory, "calls": calls}
        try:
            with Worker(row, replace(job, memory=memory), memory=True, calls=calls) as worker:
                peak |= worker.ready
        except DipgoError as error:
            peak["failed"] = str(error)
        peaks.append(peak)
        yield footprint


def _sizes(bundle: Path) -> Json:
    """Bytes of the portable files and of the caches."""
    files = {file: file.stat().st_size for file in bundle.rglob("*") if file.is_file()}
    cache = sum(size for file, size in files.items() if bundle / CACHE in file.parents)
    return {"bundle_bytes": sum(files.values()) - cache, "cache_bytes": cache}


def _weight_bytes(source: str) -> int:
    denoiser = load(source, weights=False).denoiser
    return sum(parameter.numel() * 4 for parameter in denoiser.parameters())
