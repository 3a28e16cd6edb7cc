"""A suite from its first case to its last, into a result file that says all the time what there is."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.scenarios import Case, Subject, SuiteScenario
from benchmarks.suite import footprint, turns
from benchmarks.suite.apart import apart
from benchmarks.suite.blocks import time_blocks
from benchmarks.suite.builder import Builder
from benchmarks.suite.operators import time_operators
from benchmarks.suite.options import Options
from benchmarks.suite.remaining import Missing
from dipgo_compile.errors import DipgoError
from dipgo_compile.mask import Mask
from dipgo_compile.measure import machine
from dipgo_compile.measure.rows import Job
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE

Json = dict[str, Any]
Progress = Callable[[int, int, str], None]
"""Told how many steps are done, of how many, and which is next."""


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

    total = sum(Missing.of(case, _found(content, case), options.footprint).steps for case in cases)
    with (
        tempfile.TemporaryDirectory(prefix=f"dipgo-{scenario.name}-") as directory,
        Builder(shared=options.quick) as builder,
    ):
        steps = _Steps(total, progress)
        bench = _Bench(scenario, options, content["scenario"], Path(directory), builder, steps, save)
        for case in cases:
            found = _found(content, case)
            if Missing.of(case, found, options.footprint).steps:
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
        options: Options,
        settings: Json,
        workspace: Path,
        builder: Builder,
        steps: _Steps,
        save: Callable[[], None],
    ) -> None:
        self._scenario, self._options, self._settings = scenario, options, settings
        self._workspace, self._builder, self._steps, self._save = workspace, builder, steps, save
        self._prepared: Subject | None = None

    def measure(self, case: Case, found: Json) -> None:
        """Measure what is missing of a case, into ``found``."""
        missing = Missing.of(case, found, self._options.footprint)
        found.pop("failed", None)
        try:
            if missing.timed or missing.operators:
                with self._built(case) as (bundle, built):
                    if missing.timed:
                        found |= built
                        self._measure_built(case, missing, self._job(case, bundle), found)
                    if missing.operators:
                        self._steps(f"{case.name}: time every operator")
                        found["operators"] = apart(time_operators, bundle, self._settings["threads"])
            if missing.profile:
                with self._built(replace(case, fuse=False)) as (bundle, _):
                    self._steps(f"{case.name}: time every block")
                    found["profile"] = apart(time_blocks, bundle, self._settings["threads"])
        except DipgoError as error:
            found["failed"] = str(error)
        finally:
            self._save()

    def _measure_built(self, case: Case, missing: Missing, job: Job, found: Json) -> None:
        def step(what: str) -> None:
            self._steps(f"{case.name}: {what}")

        timed = self._scenario.timed_calls
        if missing.footprint is not None:
            calls = min(timed, found["mask"]["calls_run"])
            for found["footprint"] in footprint.measure(job, missing.footprint, calls, step):
                self._save()
        unpruned = found["macs"]["kept"] == found["macs"]["dense"]
        calls = turns.Calls(found["mask"]["calls"], timed, unpruned)
        declared = next(other.turns for other in self._scenario.cases if other.name == case.name)
        order = {turn.rows: index for index, turn in enumerate(declared)}
        for turn in missing.turns:
            taken = turns.take(turn, job, calls, step)
            kept = [other for other in found.get("turns", []) if turns.names_of(other) != turn.rows]
            found["turns"] = sorted([*kept, taken], key=lambda of: order.get(turns.names_of(of), len(order)))
            self._save()

    @contextmanager
    def _built(self, case: Case) -> Iterator[tuple[Path, Json]]:
        """A case's bundle, and what there is to say of its build."""
        bundle = self._workspace / f"{case.name}.dipgo"
        self._steps(f"{case.name}: build{'' if case.fuse else ', one engine a block'}")
        try:
            yield bundle, self._builder.build(self._scenario, case, bundle)
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


class _Steps:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total, what)
        self._done += 1


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
