"""The bundles of a suite, and what all cases of a subject share: inputs, schedule and dense graph."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from benchmarks import mask_rules
from benchmarks.scenarios import Case, Subject, SuiteScenario
from benchmarks.suite.apart import apart, process, submit
from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.bundle import open_bundle
from dipgo_compile.measure.rows import prepare
from dipgo_compile.models.source import load

Json = dict[str, Any]


class Builder:
    """Builds bundles in processes that give their memory back.

    ``shared``: in one process, which exports a subject once for all of its bundles and the dense graph. What
    a build takes is then not noted: it lacks that part.
    """

    def __init__(self, *, shared: bool) -> None:
        self._pool = process() if shared else None

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def build(self, scenario: SuiteScenario, case: Case, bundle: Path) -> Json:
        """Build a case, and say what there is to say of it. Raises a DipgoError."""
        if self._pool is None:
            return cast(Json, apart(_build, scenario, case, bundle))
        return cast(Json, submit(self._pool, _build_shared, scenario, case, bundle))

    def prepare(self, subject: Subject, bundle: Path, workspace: Path) -> None:
        """Store inputs, schedule and dense graph for all cases of a subject, of which ``bundle`` is one."""
        if self._pool is None:
            apart(_prepare, subject, bundle, workspace)
        else:
            submit(self._pool, _prepare_shared, subject, bundle, workspace)


def _build(scenario: SuiteScenario, case: Case, bundle: Path, exported: Exported | None = None) -> Json:
    source = scenario.subject(case).model
    mask = mask_rules.make(case.mask, load(source, weights=False), scenario.steps)
    options = _options(scenario, case)
    report = build(mask, source=source, output=bundle, options=options, exported=exported)
    program = report.plan.program
    return {
        "mask": {**mask.provenance, "calls": mask.calls, "calls_run": len(program.calls_with_runs())},
        "macs": dict(report.plan.macs),
        "engines": len(program.engines),
        "build_seconds": {**report.seconds, "all": sum(report.seconds.values())},
    }


def _build_shared(scenario: SuiteScenario, case: Case, bundle: Path) -> Json:
    exported = _exported(scenario.subject(case), case.split_guidance)
    found = _build(scenario, case, bundle, exported)
    del found["build_seconds"]
    return found


def _options(scenario: SuiteScenario, case: Case) -> BuildOptions:
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


def _prepare(subject: Subject, bundle: Path, workspace: Path, exported: Exported | None = None) -> None:
    opened = open_bundle(bundle, verify=False)
    prepare.store_inputs(opened, workspace)
    prepare.store_dense(opened, subject.model, workspace, exported)


def _prepare_shared(subject: Subject, bundle: Path, workspace: Path) -> None:
    _prepare(subject, bundle, workspace, _exported(subject, split_guidance=False))
