"""Many masks and peers on one architecture: every case a bundle, every row a process of its own.

Few processes live at a time: the rows of a turn, which take turns sample by sample, so that a machine that
slows down slows all of them down. What fails is written down as failed, and the rest goes on. The result file
is written after every step; ``resume`` goes on from there.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

from benchmarks import mask_rules, results
from benchmarks.rows import MODULES
from benchmarks.scenarios import Case, Subject, SuiteScenario, Turn
from dipgo_compile.bench import SETTLE_SECONDS
from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.bundle import CACHE, open_bundle
from dipgo_compile.errors import BackendError, DipgoError, InputError
from dipgo_compile.mask import Mask
from dipgo_compile.measure import machine
from dipgo_compile.measure.profile import matmul_rate, profile
from dipgo_compile.measure.rows import Job, prepare
from dipgo_compile.measure.worker import Worker
from dipgo_compile.models.source import load
from dipgo_compile.program import PROLOGUE
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE, Runtime

UNIFORM = ("dense", "torch", "torch-compile")  # rows whose calls all cost the same, whatever the mask
MEMORY_MODES = ("low", "balanced", "fast")
SLOW = ("torch", "torch-compile")  # left out of quick runs, in which the SuperNet stands for PyTorch
PROFILED = 3  # times that a block is run
Json = dict[str, Any]
Progress = Callable[[int, int, str], None]
"""Told how many steps are done, of how many, and which is next."""


@dataclass(frozen=True)
class Footprint:
    """How a case's footprint is measured: ``loads`` are timed, and the peak memory of ``peaks``: rows, a
    plan with its memory mode.
    """

    loads: int
    peaks: tuple[tuple[str, str | None], ...]


FOOTPRINT = Footprint(3, (*(("plan", mode) for mode in MEMORY_MODES), ("dense", None), ("torch", None)))
QUICK_FOOTPRINT = Footprint(1, (("plan", "balanced"), ("dense", None)))


@dataclass(frozen=True)
class Options:
    """``cases``: names or their beginnings, ``rows``: names; None is all. With ``rows``, only turns in which
    one of them takes part are measured. ``quick``: fewer cases, without eager and compiled PyTorch, two
    repeats, fewer memory modes, and one export a subject.
    """

    threads: int | None = None
    quick: bool = False
    cases: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None

    def chosen(self, cases: tuple[Case, ...]) -> tuple[Case, ...]:
        """What is left of the cases. Raises InputError for a name that none of them has."""
        if self.quick:
            cases = tuple(_quick(case) for case in cases if case.quick)
        rows = {row for case in cases for turn in case.turns for row in turn.rows}
        for name in self.cases or ():
            if not any(case.name.startswith(name) for case in cases):
                raise InputError(f"there is no case {name!r}", available=[case.name for case in cases])
        for name in self.rows or ():
            if name not in rows:
                raise InputError(f"there is no row {name!r}", available=sorted(rows))
        if self.cases is not None:
            cases = tuple(case for case in cases if case.name.startswith(self.cases))
        if self.rows is not None:
            asked = set(self.rows)
            cases = tuple(
                replace(case, turns=turns, footprint=False, profile=False)
                for case in cases
                if (turns := tuple(turn for turn in case.turns if asked & {*turn.rows}))
            )
        return cases


def run(
    scenario: SuiteScenario,
    options: Options,
    file: Path,
    *,
    resume: bool,
    command: str,
    progress: Progress | None = None,
) -> Json:
    """Measure the chosen cases and write ``file`` after every step.

    With ``resume``, what it has is kept, and what failed is tried again. Raises InputError for unknown names
    and when ``file`` was made with other settings.
    """
    cases = options.chosen(scenario.cases)
    content = results.begin(file, _settings(scenario, options), "cases", resume)
    content |= {"machine": _machine(), "command": command}

    def save() -> None:
        order = {case.name: index for index, case in enumerate(scenario.cases)}
        content["cases"].sort(key=lambda found: order.get(found["name"], len(order)))
        results.write(file, content)

    footprint = QUICK_FOOTPRINT if options.quick else FOOTPRINT
    missing = [_Missing.of(case, _found(content, case), footprint) for case in cases]
    steps = _Steps(sum(part.steps(footprint) for part in missing), progress)
    with (
        tempfile.TemporaryDirectory(prefix=f"dipgo-{scenario.name}-") as directory,
        _Builder(shared=options.quick) as builder,
    ):
        bench = _Bench(scenario, content["scenario"], Path(directory), builder, footprint, steps, save)
        for case, part in zip(cases, missing, strict=True):
            found = _found(content, case)
            if part.steps(footprint):
                if found not in content["cases"]:
                    content["cases"].append(found)
                bench.measure(case, found)
    return content


class _Bench:
    """Builds a case's bundle, measures it and deletes it. Inputs and the dense graph serve all cases of a
    subject.
    """

    def __init__(
        self,
        scenario: SuiteScenario,
        settings: Json,
        workspace: Path,
        builder: _Builder,
        footprint: Footprint,
        steps: _Steps,
        save: Callable[[], None],
    ) -> None:
        self._scenario, self._settings, self._workspace = scenario, settings, workspace
        self._builder, self._footprint, self._steps, self._save = builder, footprint, steps, save
        self._prepared: Subject | None = None

    def measure(self, case: Case, found: Json) -> None:
        missing = _Missing.of(case, found, self._footprint)
        found.pop("failed", None)
        try:
            if missing.footprint or missing.turns:
                with self._built(case) as (bundle, built):
                    found |= built
                    job = self._job(case, bundle)
                    if missing.footprint:
                        self._measure_footprint(case, job, found)
                    for turn in missing.turns:
                        self._take_turns(case, turn, job, found)
            if missing.profile:
                with self._built(replace(case, fuse=False)) as (bundle, _):
                    self._steps(f"{case.name}: time every block")
                    found["profile"] = _apart(_time_blocks, bundle, self._settings["threads"])
        except DipgoError as error:
            found["failed"] = str(error)
        finally:
            self._save()

    @contextmanager
    def _built(self, case: Case) -> Iterator[tuple[Path, Json]]:
        """A case's bundle, and what there is to say of its build."""
        bundle = self._workspace / f"{case.name}.dipgo"
        self._steps(f"{case.name}: build{'' if case.fuse else ', one engine a block'}")
        try:
            yield bundle, self._builder(self._scenario, case, _build_options(self._scenario, case), bundle)
        finally:
            shutil.rmtree(bundle, ignore_errors=True)

    def _job(self, case: Case, bundle: Path) -> Job:
        """What the rows of a case share, stored if this subject's isn't yet."""
        subject, shared = self._scenario.subject(case), self._workspace / "shared"
        if self._prepared != subject:
            shutil.rmtree(shared, ignore_errors=True)
            shared.mkdir()
            self._builder.prepare(subject, bundle, shared)
            self._prepared = subject
        return Job(
            bundle=str(bundle),
            source=subject.model,
            workspace=str(shared),
            threads=self._settings["threads"],
            guidance_scale=self._settings["guidance_scale"],
        )

    def _measure_footprint(self, case: Case, job: Job, found: Json) -> None:
        """Loading, size on disk, and memory of processes that are alone."""
        seconds = []
        for index in range(1 + self._footprint.loads):  # the first makes the cache and warms the page cache
            self._steps(f"{case.name}: load")
            with Worker("plan", job) as worker:
                seconds += [worker.load_seconds] if index else []
        footprint = found["footprint"] = {
            "load_seconds": _spread(seconds),
            **_sizes(Path(job.bundle)),
            "weight_bytes": _weight_bytes(job.source),
            "peaks": [],
        }
        for row, memory in self._footprint.peaks:
            self._steps(f"{case.name}: memory of {row}{'' if memory is None else f', {memory}'}")
            calls = min(self._scenario.timed_calls, found["mask"]["calls_run"])
            peak: Json = {"row": row, "memory": memory, "calls": calls}
            try:
                with Worker(row, replace(job, memory=memory), memory=True, calls=calls) as worker:
                    peak |= worker.ready
            except DipgoError as error:
                peak["failed"] = str(error)
            footprint["peaks"].append(peak)
            self._save()

    def _take_turns(self, case: Case, turn: Turn, job: Job, found: Json) -> None:
        """Warm up and time the rows of a turn; a row that fails leaves the others alone."""
        calls = found["mask"]["calls"]
        rows = {name: self._new_row(name, found) for name in turn.rows}
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name, row in rows.items():
                self._steps(f"{case.name}: warm up {name}")
                try:
                    worker = stack.enter_context(Worker(MODULES.get(name, name), job))
                    whole = name == "plan" or row["timed_calls"] < calls
                    first = worker.image(_limit(row, calls) if whole else self._scenario.timed_calls)
                except DipgoError as error:
                    row["failed"] = str(error)
                    continue
                workers[name] = worker
                row["load_seconds"] = worker.load_seconds
                row["first_seconds"] = first if row["timed_calls"] == calls and whole else None
            samples: dict[str, list[float]] = {name: [] for name in workers}
            for _ in range(turn.repeats):
                for name, worker in list(workers.items()):
                    self._steps(f"{case.name}: time {name}")
                    time.sleep(SETTLE_SECONDS)
                    try:
                        samples[name].append(_seconds_per_image(worker, rows[name], calls))
                    except DipgoError as error:
                        rows[name]["failed"] = str(error)
                        del workers[name]
            for name in workers:
                rows[name]["seconds_per_image"] = _spread(samples[name])
        kept = [other for other in found.get("turns", []) if _names(other) != turn.rows]
        declared = next(other for other in self._scenario.cases if other.name == case.name)
        order = {other.rows: index for index, other in enumerate(declared.turns)}
        found["turns"] = sorted(
            [*kept, {"repeats": turn.repeats, "rows": list(rows.values())}],
            key=lambda made: order.get(_names(made), len(order)),
        )
        self._save()

    def _new_row(self, name: str, found: Json) -> Json:
        calls = found["mask"]["calls"]
        uniform = name in UNIFORM or (name == "plan" and found["macs"]["kept"] == found["macs"]["dense"])
        return {"name": name, "timed_calls": min(self._scenario.timed_calls, calls) if uniform else calls}


class _Builder:
    """Builds bundles in processes that give their memory back.

    ``shared``: in one process, which exports a subject once for all of its bundles and the dense graph. What
    a build takes is then not noted: it lacks that part.
    """

    def __init__(self, *, shared: bool) -> None:
        self._pool = _process() if shared else None

    def __enter__(self) -> _Builder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def __call__(self, scenario: SuiteScenario, case: Case, options: BuildOptions, bundle: Path) -> Json:
        if self._pool is None:
            return cast(Json, _apart(_build, scenario, case, options, bundle, None))
        return cast(Json, _submit(self._pool, _build_shared, scenario, case, options, bundle))

    def prepare(self, subject: Subject, bundle: Path, workspace: Path) -> None:
        """Store inputs, schedule and dense graph for all cases of a subject, of which ``bundle`` is one."""
        if self._pool is None:
            _apart(_prepare, subject, bundle, workspace)
        else:
            _submit(self._pool, _prepare_shared, subject, bundle, workspace)


class _Steps:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, what)
        self._done += 1


def _build_options(scenario: SuiteScenario, case: Case) -> BuildOptions:
    """Raises BackendError for a backend or a precision that there isn't."""
    pixels = scenario.subject(case).pixels
    options = BuildOptions(
        height=pixels,
        width=pixels,
        backend=case.backend,
        precision=case.precision,
        provider=case.provider,
        split_guidance=case.split_guidance,
    )
    return options if case.fuse else replace(options, fuse="none")


@functools.lru_cache(maxsize=1)
def _exported(subject: Subject, split_guidance: bool) -> Exported:
    size = BuildOptions(height=subject.pixels, width=subject.pixels, split_guidance=split_guidance)
    return Exported.of(load(subject.model), size)


def _build_shared(scenario: SuiteScenario, case: Case, options: BuildOptions, bundle: Path) -> Json:
    exported = _exported(scenario.subject(case), case.split_guidance)
    found = _build(scenario, case, options, bundle, exported)
    del found["build_seconds"]
    return found


def _build(
    scenario: SuiteScenario, case: Case, options: BuildOptions, bundle: Path, exported: Exported | None
) -> Json:
    source = scenario.subject(case).model
    mask = mask_rules.make(case.mask, load(source, weights=False), scenario.steps)
    report = build(mask, source=source, output=bundle, options=options, exported=exported)
    program = report.plan.program
    return {
        "mask": {**mask.provenance, "calls": mask.calls, "calls_run": len(program.calls_with_runs())},
        "macs": dict(report.plan.macs),
        "engines": len(program.engines),
        "build_seconds": {**report.seconds, "all": sum(report.seconds.values())},
    }


def _time_blocks(bundle: Path, threads: int) -> Json:
    """Seconds of an image if every block took what it takes alone: of the blocks that the mask keeps, and of
    all blocks at all calls.
    """
    with Runtime.load(bundle, threads=threads, verify=False) as runtime:
        times, rate, program = profile(runtime, PROFILED), matmul_rate(), runtime.plan.program
    once = {run.engine for run in program.runs() if run.call == PROLOGUE}
    blocks = [time for time in times if time.engine not in once]
    return {
        "blocks": len(blocks),
        "seconds_kept": sum(time.seconds * time.runs for time in blocks),
        "seconds_all": sum(time.seconds for time in blocks) * len(program.calls),
        "macs_per_second": rate,
    }


def _prepare(subject: Subject, bundle: Path, workspace: Path, exported: Exported | None = None) -> None:
    opened = open_bundle(bundle, verify=False)
    prepare.store_inputs(opened, workspace)
    prepare.store_dense(opened, subject.model, workspace, exported)


def _prepare_shared(subject: Subject, bundle: Path, workspace: Path) -> None:
    _prepare(subject, bundle, workspace, _exported(subject, split_guidance=False))


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Work in a process that gives its memory back. Raises a DipgoError, whatever ended it: a suite runs for
    an hour, and the other cases are worth having.
    """
    with _process() as pool:
        return _submit(pool, work, *arguments)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _submit(pool: ProcessPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return pool.submit(work, *arguments).result()
    except DipgoError:
        raise
    except Exception as error:  # also a process that was killed for its memory
        raise BackendError(f"{type(error).__name__}: {error}") from error


def _seconds_per_image(worker: Worker, row: Json, calls: int) -> float:
    """Of a row that is timed for some of the calls, what all would take. A plan's first call comes with a
    prologue, once an image, so it is timed by itself.
    """
    timed: int = row["timed_calls"]
    if timed == calls:
        return worker.image(None)
    if row["name"] != "plan":
        return worker.image(timed) * calls / timed
    first = worker.image(1)
    return first + (worker.image(1 + timed) - first) * (calls - 1) / timed


def _limit(row: Json, calls: int) -> int | None:
    """The calls to time; None is a whole image."""
    timed: int = row["timed_calls"]
    return timed if timed < calls else None


def _spread(seconds: list[float]) -> Json:
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def _sizes(bundle: Path) -> Json:
    """Bytes of the portable files and of the caches."""
    files = {file: file.stat().st_size for file in bundle.rglob("*") if file.is_file()}
    cache = sum(size for file, size in files.items() if bundle / CACHE in file.parents)
    return {"bundle_bytes": sum(files.values()) - cache, "cache_bytes": cache}


def _weight_bytes(source: str) -> int:
    denoiser = load(source, weights=False).denoiser
    return sum(parameter.numel() * 4 for parameter in denoiser.parameters())


def _quick(case: Case) -> Case:
    turns = tuple(
        replace(turn, rows=rows, repeats=min(turn.repeats, 2))
        for turn in case.turns
        if len(rows := tuple(row for row in turn.rows if row not in SLOW)) > 1
    )
    subject = case.subject.quick() if case.subject else None
    return replace(case, turns=turns, profile=False, subject=subject)


def _settings(scenario: SuiteScenario, options: Options) -> Json:
    """All that the figures depend on, besides the machine and the masks' files."""
    return {
        "model": scenario.model,
        "pixels": scenario.pixels,
        "steps": scenario.steps,
        "timed_calls": scenario.timed_calls,
        "threads": options.threads or machine.physical_cores(),
        "guidance_scale": DEFAULT_GUIDANCE_SCALE,
        "masks_sha256": dict(_digests(scenario)),
        **({} if scenario.model else {"quick": options.quick}),  # cases with sizes of their own
    }


def _machine() -> Json:
    described = machine.describe()
    with suppress(PackageNotFoundError):  # without it the row fails, and says so
        described["versions"]["DeepCache"] = version("DeepCache")
    return described


def _digests(scenario: SuiteScenario) -> Iterator[tuple[str, str]]:
    for case in scenario.cases:
        if Path(case.mask).is_file():
            yield case.mask, hashlib.sha256("\n".join(Mask.load(case.mask).rows).encode()).hexdigest()


def _found(content: Json, case: Case) -> Json:
    """What there is of a case, to be filled in."""
    new: Json = {
        "name": case.name,
        "about": case.about,
        "backend": case.backend,
        "precision": case.precision,
        "provider": case.provider,
        "fused": case.fuse,
        **({"split_guidance": True} if case.split_guidance else {}),
    }
    if case.subject is not None:
        new |= {"model": case.subject.model, "pixels": case.subject.pixels}
    return next((found for found in content["cases"] if found["name"] == case.name), new)


def _names(turn: Json) -> tuple[str, ...]:
    return tuple(row["name"] for row in turn["rows"])


@dataclass(frozen=True)
class _Missing:
    """What of a case was not measured yet, or failed."""

    turns: tuple[Turn, ...]
    footprint: bool
    profile: bool

    @classmethod
    def of(cls, case: Case, found: Json, wanted: Footprint) -> _Missing:
        whole = [turn for turn in found.get("turns", []) if not any("failed" in row for row in turn["rows"])]
        done = {_names(turn) for turn in whole}
        return cls(
            turns=tuple(turn for turn in case.turns if turn.rows not in done),
            footprint=case.footprint and not _measured(found.get("footprint"), wanted),
            profile=case.profile and "profile" not in found,
        )

    def steps(self, wanted: Footprint) -> int:
        """How many steps of work it is, for the progress bar."""
        rounds = sum(len(turn.rows) * (1 + turn.repeats) for turn in self.turns)
        footprint = 1 + wanted.loads + len(wanted.peaks) if self.footprint else 0
        return rounds + footprint + (rounds + footprint > 0) + 2 * self.profile


def _measured(footprint: Json | None, wanted: Footprint) -> bool:
    if footprint is None or len(footprint["peaks"]) < len(wanted.peaks):
        return False
    return not any("failed" in peak for peak in footprint["peaks"])
