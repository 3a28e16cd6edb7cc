"""Rows that take turns: all warm up, then each is timed in its turn, as often as the turn says."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.rows import MODULES
from benchmarks.scenarios import Turn
from dipgo_compile.bench import SETTLE_SECONDS
from dipgo_compile.errors import DipgoError
from dipgo_compile.measure.machine import StolenTime
from dipgo_compile.measure.rows import Job
from dipgo_compile.measure.worker import Worker

UNIFORM = ("dense", "torch", "torch-compile")  # rows whose calls all cost the same, whatever the mask
Json = dict[str, Any]


@dataclass(frozen=True)
class Calls:
    """``all`` calls of an image. Rows whose calls cost the same are timed for ``timed`` of them: dense ones,
    and the plan if nothing is pruned (``unpruned``).
    """

    all: int
    timed: int
    unpruned: bool

    def timed_of(self, row: str) -> int:
        same = row in UNIFORM or (row == "plan" and self.unpruned)
        return min(self.timed, self.all) if same else self.all


def take(turn: Turn, job: Job, calls: Calls, step: Callable[[str], None]) -> Json:
    """The turn's rows, timed; a row that fails says so and leaves the others alone. ``step`` is told what
    comes next.
    """
    rows: dict[str, Json] = {name: {"name": name, "timed_calls": calls.timed_of(name)} for name in turn.rows}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, row in rows.items():
            step(f"warm up {name}")
            try:
                worker = stack.enter_context(Worker(MODULES.get(name, name), job))
                like_timed = name == "plan" or row["timed_calls"] < calls.all
                first = worker.image(_limit(row, calls) if like_timed else calls.timed)
            except DipgoError as error:
                row["failed"] = str(error)
                continue
            workers[name] = worker
            row["load_seconds"] = worker.load_seconds
            row["first_seconds"] = first if row["timed_calls"] == calls.all and like_timed else None
        samples: dict[str, list[float]] = {name: [] for name in workers}
        with StolenTime() as stolen:
            for _ in range(turn.repeats):
                for name, worker in list(workers.items()):
                    step(f"time {name}")
                    time.sleep(SETTLE_SECONDS)
                    try:
                        samples[name].append(_seconds_per_image(worker, rows[name], calls))
                    except DipgoError as error:
                        rows[name]["failed"] = str(error)
                        del workers[name]
        for name in workers:
            rows[name]["seconds_per_image"] = spread(samples[name])
    return {"repeats": turn.repeats, "stolen": stolen.share, "rows": list(rows.values())}


def names_of(taken: Json) -> tuple[str, ...]:
    """The rows of a turn that was taken."""
    return tuple(row["name"] for row in taken["rows"])


def spread(seconds: list[float]) -> Json:
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def _seconds_per_image(worker: Worker, row: Json, calls: Calls) -> float:
    """Of a row that is timed for some of the calls, what all would take. A plan has a prologue, once an
    image, so it is timed by itself: an image without calls.
    """
    timed: int = row["timed_calls"]
    if timed == calls.all:
        return worker.image(None)
    if row["name"] != "plan":
        return worker.image(timed) * calls.all / timed
    prologue = worker.image(0)
    return prologue + (worker.image(timed) - prologue) * calls.all / timed


def _limit(row: Json, calls: Calls) -> int | None:
    """The calls to time; None is a whole image."""
    timed: int = row["timed_calls"]
    return timed if timed < calls.all else None
