"""How fast a plan is, against the same denoiser unpruned.

Every row runs in a process of its own, with the same threads and inputs. Two phases. *Memory*: a process
alone loads a row and makes one image; alone, because PSS divides pages among the processes that share them,
libraries too. *Time*: all rows are loaded and warmed up, then take turns image by image (A B A B), so that a
machine that slows down slows all of them down; whoever waits is blocked on a pipe.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dipgo_compile.bundle import MASK, Bundle, open_bundle
from dipgo_compile.errors import InputError
from dipgo_compile.mask import Mask
from dipgo_compile.measure import machine
from dipgo_compile.measure.rows import ROWS, Job
from dipgo_compile.measure.worker import Worker
from dipgo_compile.models.reading import ONNX_CLASS
from dipgo_compile.plan import Plan
from dipgo_compile.running.unguided import SCALE
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE

SETTLE_SECONDS = 0.05  # the threads of a row that has just worked may spin for some milliseconds
SHORT_SECONDS = 1.0  # an image that feels whose data the processor's caches hold
Progress = Callable[[int, int], None]
"""Told how many images are made, of how many."""


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """``versus``: the rows besides ``plan``; None: ``dense`` and, unless the denoiser is an ONNX file,
    ``torch``. Two images of warm-up: ONNX Runtime's first two runs are slower,
    because its memory grows. ``threads`` of None: the physical cores. ``source``: the model's place, if
    not the bundle's. ``memory``: of the row ``plan``, see ``LoadOptions``. ``shape``: of a bundle for
    several, as ``Shapes.parse`` reads it; None: that of plan.json.
    """

    versus: tuple[str, ...] | None = None
    repeats: int = 5
    warmup: int = 2
    threads: int | None = None
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE
    source: str | None = None
    memory: str = "balanced"
    shape: str | None = None

    def __post_init__(self) -> None:
        others = [row for row in ROWS if row != "plan"]
        for row in self.versus or ():
            if row not in others:
                raise InputError(f"there is no row {row!r} to compare with", available=others)
        if self.repeats < 1 or self.warmup < 0:
            raise InputError(
                f"{self.repeats} repeats after {self.warmup} images of warm-up: at least one is timed"
            )


@dataclass(frozen=True)
class Row:
    """``seconds``: per image, one entry a repeat. ``load_seconds``: from the process's start until ready."""

    name: str
    seconds: tuple[float, ...]
    peak_pss_bytes: int
    load_seconds: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seconds_per_image": {"min": min(self.seconds), "median": self.median, "max": max(self.seconds)},
            "peak_pss_bytes": self.peak_pss_bytes,
            "load_seconds": self.load_seconds,
        }


@dataclass(frozen=True)
class BenchResult:
    """``ideal_speedup``: see the function. ``stolen``: of the processors' time, see ``StolenTime``. Speedup
    and efficiency are None without the row ``dense``.
    """

    machine: Mapping[str, Any]
    scenario: Mapping[str, Any]
    rows: tuple[Row, ...]
    ideal_speedup: float
    stolen: float | None = None

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    @property
    def speedup(self) -> float | None:
        plan, dense = self.row("plan"), self.row("dense")
        return None if plan is None or dense is None else dense.median / plan.median

    @property
    def efficiency(self) -> float | None:
        return None if self.speedup is None else self.speedup / self.ideal_speedup

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "scenario": dict(self.scenario),
            "rows": [row.to_json() for row in self.rows],
            "speedup": self.speedup,
            "ideal_speedup": self.ideal_speedup,
            "efficiency": self.efficiency,
            "stolen": self.stolen,
        }


def bench(
    path: str | Path,
    options: BenchOptions | None = None,
    *,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> BenchResult:
    """Time the bundle at ``path`` and the rows it is compared with. ``command`` is recorded in the scenario.

    Raises BundleError, ModelError, and BackendError for a row whose process fails.
    """
    from dipgo_compile.measure.rows import prepare  # with the exporter, which takes seconds to import

    options = options or BenchOptions()
    bundle = open_bundle(path).shaped(options.shape)
    usual = ("dense",) if bundle.plan.model["class"] == ONNX_CLASS else ("dense", "torch")
    names = ("plan", *dict.fromkeys(usual if options.versus is None else options.versus))
    images = bundle.plan.shape.images
    count = _Counter(len(names) * (1 + options.warmup + options.repeats), progress)
    with tempfile.TemporaryDirectory(prefix="dipgo-bench-") as workspace:
        job = _job(bundle, options, workspace)
        prepare.store_inputs(bundle, Path(workspace))
        if "dense" in names:
            prepare.store_dense(bundle, job.source, Path(workspace))
        peaks = {}
        for name in names:
            with Worker(name, job, memory=True) as worker:
                peaks[name] = int(worker.ready["peak_pss_bytes"])
            count()
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker(name, job)) for name in names]
            warm = _take_turns(workers, options.warmup, count)
            again = any(seconds and seconds[-1] < SHORT_SECONDS for seconds in warm.values())
            with machine.StolenTime() as stolen:
                seconds = _take_turns(workers, options.repeats, count, again)
            rows = tuple(
                Row(
                    worker.row,
                    tuple(s / images for s in seconds[worker.row]),
                    peaks[worker.row],
                    worker.load_seconds,
                )
                for worker in workers
            )
    scenario = _scenario(bundle, job, options, command)
    ideal = ideal_speedup(bundle.plan, job.guidance_scale)
    return BenchResult(machine.describe(), scenario, rows, ideal, stolen.share)


def ideal_speedup(plan: Plan, guidance_scale: float | None) -> float:
    """MACs of all calls over MACs that are made: those kept, or half of them where split guidance leaves one
    half out.
    """
    ideal = plan.macs["dense"] / plan.macs["kept"]
    return 2 * ideal if plan.interface.split and guidance_scale == SCALE else ideal


def find_bundle(directory: Path) -> Path:
    """The only bundle in a directory. Raises InputError for none or several."""
    found = sorted(directory.glob("*.dipgo"))
    if len(found) == 1:
        return found[0]
    mend = "name one" if found else "make one with: dipgo-compile build --mask mask.json"
    raise InputError(
        f"{len(found) or 'no'} bundles in the working directory", where=directory, available=found, mend=mend
    )


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _take_turns(
    workers: Sequence[Worker], rounds: int, count: Callable[[], None], again: bool = False
) -> dict[str, list[float]]:
    """Seconds of ``rounds`` images of each row. With ``again`` another one goes before each,
    untimed: other rows have filled the caches, and a process that only draws would find its own data.
    """
    seconds: dict[str, list[float]] = {worker.row: [] for worker in workers}
    for _ in range(rounds):
        for worker in workers:
            time.sleep(SETTLE_SECONDS)
            if again:
                worker.image()
            seconds[worker.row].append(worker.image())
            count()
    return seconds


def _job(bundle: Bundle, options: BenchOptions, workspace: str) -> Job:
    guided = bundle.plan.interface.guidance is not None
    return Job(
        bundle=str(bundle.path.resolve()),
        source=options.source or bundle.plan.model["source"],
        workspace=workspace,
        threads=options.threads or machine.physical_cores(),
        guidance_scale=options.guidance_scale if guided else None,
        memory=options.memory,
        start_step=bundle.plan.schedule.get("start_step"),
        shape=bundle.shapes.label(bundle.plan.shape),
    )


def _scenario(bundle: Bundle, job: Job, options: BenchOptions, command: Sequence[str]) -> dict[str, Any]:
    plan, mask = bundle.plan, Mask.load(bundle.path / MASK)
    return {
        "bundle": bundle.path.name,
        "model": job.source,
        "mask": {
            "method": mask.provenance.get("method"),
            "ratio": mask.provenance.get("ratio"),
            "calls": len(plan.program.calls),
            "calls_run": len(plan.program.calls_with_runs()),
        },
        "macs": dict(plan.macs),
        "scheduler": plan.schedule["class"],
        "steps": plan.schedule["num_inference_steps"],
        "images": plan.shape.images,
        "latents": [plan.shape.height, plan.shape.width],
        "guidance": job.guidance_scale,
        "split_guidance": plan.interface.split,
        "threads": job.threads,
        "memory": job.memory,
        **asdict(plan.target),
        "repeats": options.repeats,
        "warmup": options.warmup,
        "command": " ".join(command),
    }
