"""The operators of a bundle's engines, timed by ONNX Runtime's own profiler.

Engines are opened as a ``Runtime`` opens them, packed and sharing an arena, and run on what lies in the
plan's arena. Of the runs after the warm-up, the one of median length counts, whole: medians of single
operators would not add up to a run. The profiler tells names and seconds of operators, but not the shapes of
packed weights, so multiply-accumulates are those of the portable graph (``macs/graph.py``).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dipgo_compile.backends.base import LoadOptions
from dipgo_compile.bundle import Bundle, open_bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.executor import Session
from dipgo_compile.macs.kinds import kind_of
from dipgo_compile.measure.operators import OperatorProfile, OperatorTime
from dipgo_compile.measure.profile import REPEATS, WARMUP, matmul_rate
from dipgo_compile.plan import Target
from dipgo_compile.shapes import Shape

RUN, OPERATOR = "model_run", "Node"  # the name of a run's event, the category of an operator's
MICROSECONDS = 1e6  # of a second


@dataclass(frozen=True, slots=True)
class EngineRun:
    """One run of an engine: its ``seconds``, and kind and seconds of every operator, in order."""

    seconds: float
    operators: tuple[tuple[str, float], ...]


def profile_operators(
    path: str | Path,
    *,
    shape: Shape | str | None = None,
    threads: int | None = None,
    repeats: int = REPEATS,
) -> OperatorProfile:
    """Time the operators of one image, of a bundle or of one of its shapes.

    Multiply-accumulates are counted where onnx-ir is installed. Raises BundleError, InputError for a shape
    that is not there, and BackendError for what ONNX Runtime's profiler doesn't see: another backend, or a
    GPU, on which operators are started and not awaited.
    """
    bundle = open_bundle(path, verify=False).shaped(shape)
    _check(bundle.plan.target)
    with tempfile.TemporaryDirectory(prefix="dipgo-profile-") as directory:
        traced = _trace(bundle, threads, repeats, Path(directory))
    runs = Counter(run.engine for run in bundle.plan.program.runs())
    macs = _macs(bundle, runs) if find_spec("onnx_ir") is not None else {}
    count: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for engine, times in runs.items():
        for kind, taken in traced[engine].operators:
            count[kind] += times
            seconds[kind] += times * taken
    operators = [OperatorTime(kind, count[kind], taken, macs.get(kind)) for kind, taken in seconds.items()]
    return OperatorProfile(
        tuple(sorted(operators, key=lambda item: -item.seconds)),
        sum(times * traced[engine].seconds for engine, times in runs.items()),
        matmul_rate(repeats),
    )


def _check(target: Target) -> None:
    if (target.backend, target.provider) != ("onnxruntime", "cpu"):
        raise BackendError(
            f"operators are not timed in {target.backend} on {target.provider}",
            available=["onnxruntime on cpu"],
            mend="time whole engines: dipgo-compile inspect --measure",
        )


def _trace(bundle: Bundle, threads: int | None, repeats: int, directory: Path) -> dict[str, EngineRun]:
    """A run of every engine, by its name."""
    from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeEngine

    options = LoadOptions(threads=threads, verify=False)
    engines = OnnxRuntimeBackend(profiles=directory).open(bundle, options)
    for step in Session(bundle.plan, engines).engine_steps().values():
        for _ in range(WARMUP + repeats):
            step()
    found = {}
    for name, engine in engines.items():
        assert isinstance(engine, OnnxRuntimeEngine)  # all stay open, but with little memory
        found[name] = _median(read_trace(engine.end_profile())[WARMUP:])
    return found


def read_trace(file: Path) -> list[EngineRun]:
    """The runs in a file that ONNX Runtime's profiler wrote. An operator's event stands before its run's, and
    before that of a ``Scan`` whose body it is in; a ``Scan`` takes what its body doesn't.
    """
    events: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    found: list[EngineRun] = []
    started: list[tuple[int, str, int]] = []  # when, the kind, what it took
    for event in events:
        if event["cat"] == OPERATOR and "op_name" in event["args"]:
            inside = sum(taken for start, _, taken in started if start >= event["ts"])
            started.append((event["ts"], kind_of(event["args"]["op_name"]), event["dur"] - inside))
        elif event["name"] == RUN:
            operators = tuple((kind, taken / MICROSECONDS) for _, kind, taken in started)
            found.append(EngineRun(event["dur"] / MICROSECONDS, operators))
            started = []
    return found


def _median(runs: Iterable[EngineRun]) -> EngineRun:
    in_order = sorted(runs, key=lambda run: run.seconds)
    return in_order[len(in_order) // 2]


def _macs(bundle: Bundle, runs: Mapping[str, int]) -> Counter[str]:
    """Of an image, by kind of operator."""
    import onnx_ir as ir

    from dipgo_compile.macs.graph import macs_by_kind

    found: Counter[str] = Counter()
    for engine, times in runs.items():
        for kind, macs in macs_by_kind(ir.load(bundle.engine_path(engine)).graph).items():
            found[kind] += times * macs
    return found
