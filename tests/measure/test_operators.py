"""Operators by kind: what ran, what it multiplied, and the floors that follow. No time is judged."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx_ir.passes.common import ShapeInferencePass

from benchmarks.suite import operators as suite_operators
from benchmarks.suite.results import SuiteResult
from dipgo_compile.bundle import open_bundle
from dipgo_compile.commands.inspect import inspect
from dipgo_compile.errors import BackendError
from dipgo_compile.macs.counts import count_macs
from dipgo_compile.macs.graph import macs_by_kind, node_macs
from dipgo_compile.macs.kinds import ATTENTION, CONVOLUTION, MULTIPLYING, PRODUCT, kind_of
from dipgo_compile.measure import tracing
from dipgo_compile.measure.operators import OperatorProfile, OperatorTime
from dipgo_compile.measure.tracing import profile_operators, read_trace
from dipgo_compile.models.source import load
from dipgo_compile.plan import Target
from dipgo_compile.rewrites.tile_rows import TileRows


@pytest.fixture(scope="module")
def profile(bundle: Path) -> OperatorProfile:
    return profile_operators(bundle, threads=1, repeats=1)


def of_image(bundle: Path, **options: bool) -> int:
    """MACs of the portable engines through an image."""
    opened = open_bundle(bundle)
    return sum(
        sum(node_macs(ir.load(opened.engine_path(run.engine)).graph, **options).values())
        for run in opened.plan.program.runs()
    )


def test_operators_are_those_that_run(profile: OperatorProfile) -> None:
    kinds = [item.kind for item in profile.operators]
    assert {*MULTIPLYING, "LayerNormalization", "Concat"} <= {*kinds}
    assert len(kinds) == len(set(kinds))
    assert not {"Conv", "MatMul", "Gemm", "Attention", "GroupNormalization"} & {*kinds}  # kinds, or rewritten
    assert [item.seconds for item in profile.operators] == sorted(
        (item.seconds for item in profile.operators), reverse=True
    )


def test_they_run_as_often_as_the_plan_runs_their_engines(bundle: Path, profile: OperatorProfile) -> None:
    opened = open_bundle(bundle)
    engines = [ir.load(opened.engine_path(run.engine)).graph for run in opened.plan.program.runs()]
    wanted = Counter(kind_of(node.op_type) for graph in engines for node in graph)
    found = {item.kind: item.runs for item in profile.operators}
    assert {kind: found[kind] for kind in MULTIPLYING} == {kind: wanted[kind] for kind in MULTIPLYING}


def test_operators_take_part_of_their_engines_time(profile: OperatorProfile) -> None:
    """They run one after another, inside of the run that the same profiler timed."""
    assert all(item.seconds >= 0 for item in profile.operators)
    assert 0 < profile.multiplying_seconds < profile.seconds
    assert profile.between_seconds > 0


def test_macs_add_up_to_what_the_counter_says(bundle: Path, profile: OperatorProfile) -> None:
    macs = {item.kind: item.macs for item in profile.operators if item.macs is not None}
    assert macs.keys() == MULTIPLYING
    assert sum(macs.values()) == of_image(bundle, attention=True)
    assert sum(macs.values()) - macs[ATTENTION] == of_image(bundle)


def test_attention_multiplies_what_it_does_in_pytorch(bundle: Path, pipeline: Path) -> None:
    """Nothing of it is hoisted or folded away. The first call computes all blocks."""
    opened = open_bundle(bundle)
    model = load(str(pipeline), weights=False)
    geometry = model.geometry(1)
    everything, without = (count_macs(model, geometry, (), attention=with_).total for with_ in (True, False))
    first = [run.engine for run in opened.plan.program.runs() if run.call == 0]
    found = sum(macs_by_kind(ir.load(opened.engine_path(engine)).graph)[ATTENTION] for engine in first)
    assert found == opened.plan.samples * (everything - without)


def test_attention_written_as_products_counts_the_same() -> None:
    """Queries (2, 5, 8), keys and values (2, 3, 8), of two heads: as one operator, and as two products."""
    inputs = [
        ir.val(name, ir.DataType.FLOAT, [2, length, 8]) for name, length in zip("qkv", (5, 3, 3), strict=True)
    ]
    fused = ir.node("MultiHeadAttention", inputs, domain="com.microsoft")
    fused.outputs[0].shape = ir.Shape([2, 5, 8])
    one = ir.Graph(inputs, list(fused.outputs), nodes=[fused])
    q, k, v = (
        ir.val(name, ir.DataType.FLOAT, shape)
        for name, shape in (("q", [2, 2, 5, 4]), ("k", [2, 2, 4, 3]), ("v", [2, 2, 3, 4]))
    )
    scores = ir.node("MatMul", [q, k])
    scores.outputs[0].shape = ir.Shape([2, 2, 5, 3])
    mixed = ir.node("MatMul", [scores.outputs[0], v])
    mixed.outputs[0].shape = ir.Shape([2, 2, 5, 4])
    two = ir.Graph([q, k, v], list(mixed.outputs), nodes=[scores, mixed])
    assert macs_by_kind(one) == {ATTENTION: 2 * 2 * 5 * 3 * (4 + 4)}
    assert macs_by_kind(two) == {PRODUCT: macs_by_kind(one)[ATTENTION]}
    assert not node_macs(one)
    assert not node_macs(two)


def test_a_machine_that_cannot_count_still_times(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    found = profile_operators(bundle, threads=1, repeats=1)
    assert found.multiplying_seconds > 0
    assert found.least_seconds is None
    assert "at that rate" not in found.to_text()


@pytest.mark.parametrize("target", [Target("cpu", "bf16", "openvino"), Target("cuda", "fp16")])
def test_what_the_profiler_does_not_see_is_refused(target: Target) -> None:
    with pytest.raises(BackendError, match=f"not timed in {target.backend} on {target.provider}") as raised:
        tracing._check(target)
    assert "--measure" in str(raised.value)


def event(category: str, name: str, microseconds: int, start: int = 0, **args: str) -> dict[str, Any]:
    return {"cat": category, "name": name, "dur": microseconds, "ts": start, "args": args}


def test_events_belong_to_the_run_that_follows_them(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    events = [
        event("Session", "session_initialization", 9),
        event("Node", "a_kernel_time", 100, op_name="Gemm"),
        event("Node", "b_kernel_time", 20, start=100, op_name="Softmax"),
        event("Session", "SequentialExecutor::Execute", 130),
        event("Session", "model_run", 140),
        event("Node", "a_kernel_time", 110, op_name="Gemm"),
        event("Session", "model_run", 150),
    ]
    file.write_text(json.dumps(events))
    first, second = read_trace(file)
    assert first.seconds == pytest.approx(140e-6)
    assert dict(first.operators) == {PRODUCT: pytest.approx(100e-6), "Softmax": pytest.approx(20e-6)}
    assert [kind for kind, _ in second.operators] == [PRODUCT]


MADE = OperatorProfile(
    (
        OperatorTime(CONVOLUTION, 10, 5.0, 500_000_000_000),
        OperatorTime("Add", 30, 2.0, None),
        OperatorTime(ATTENTION, 4, 1.0, 50_000_000_000),
        OperatorTime("Concat", 4, 0.05, None),
    ),
    seconds=10.0,
    macs_per_second=200e9,
)


def test_a_scan_takes_what_its_body_does_not(tmp_path: Path) -> None:
    """A feed-forward network on one tile after the other, in ONNX Runtime."""
    weights = {"w": (64, 256), "b": (256,), "u": (256, 64), "d": (64,)}
    ones = ", ".join(
        f"float[{','.join(map(str, shape))}] {name} = {{{','.join(['1'] * math.prod(shape))}}}"
        for name, shape in weights.items()
    )
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        network (float[2048,64] x) => (float[2048,64] y) <{ones}>
        {{ p = MatMul(x, w) q = Add(p, b) r = Gelu(q) s = MatMul(r, u) y = Add(s, d) }}"""
    )
    ShapeInferencePass()(model)
    assert TileRows()(model) == 1
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "scan")
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    session.run(None, {"x": np.ones((2048, 64), np.float32)})
    (run,) = read_trace(Path(session.end_profiling()))
    kinds = Counter(kind for kind, _ in run.operators)
    assert kinds == {PRODUCT: 8, "Gelu": 4, "Scan": 1, "Reshape": 2}
    assert all(seconds >= 0 for _, seconds in run.operators)
    assert sum(seconds for _, seconds in run.operators) <= run.seconds


def test_floors() -> None:
    assert MADE.multiplying_seconds == 6.0
    assert MADE.least_seconds == pytest.approx(550 / 200)
    assert MADE.between_seconds == pytest.approx(1.95)
    assert MADE.of_yardstick(MADE.operators[0]) == pytest.approx(0.5)
    assert MADE.of_yardstick(MADE.operators[1]) is None
    assert json.loads(json.dumps(MADE.to_json())) == MADE.to_json()
    assert OperatorProfile.from_json(MADE.to_json()) == MADE


def test_what_runs_faster_than_the_yardstick_is_the_yardstick_of_floors() -> None:
    slow = replace(MADE, macs_per_second=40e9)
    assert slow.of_yardstick(slow.operators[0]) == pytest.approx(2.5)
    assert slow.fastest_macs_per_second == pytest.approx(100e9)
    assert slow.least_seconds == pytest.approx(550 / 100) and slow.least_seconds < slow.multiplying_seconds


def test_text_has_a_row_for_every_kind() -> None:
    lines = [line.split() for line in MADE.to_text().splitlines()]
    assert ["convolutions", "10", "5,000.00", "ms", "50.0%", "500.00", "100.0", "50%*"] in lines
    assert ["Add", "30", "2,000.00", "ms", "20.0%"] in lines
    assert lines[-2][:5] == ["as", "they", "ran", "6,000.00", "ms"]
    assert lines[-1][:5] == ["at", "the", "fastest", "rate", "2,750.00"]


def test_the_command_prints_them(bundle: Path) -> None:
    result = CliRunner().invoke(inspect, [str(bundle), "--operators", "--json", "--threads", "1"])
    found = OperatorProfile.from_json(json.loads(result.output)["operators"])
    assert {item.kind for item in found.operators} >= MULTIPLYING
    assert "floors of an image" in CliRunner().invoke(inspect, [str(bundle), "--operators"]).output
    refused = CliRunner().invoke(inspect, [str(bundle), "--operators", "--program"])
    assert refused.exit_code == 2


def test_a_suite_shows_them_beside_its_peers() -> None:
    rows = [
        {"name": name, "timed_calls": 50, "seconds_per_image": {"min": s, "median": s, "max": s}}
        for name, s in (("plan", 10.0), ("supernet", 12.0))
    ]
    case = {
        "name": "some-mask",
        "macs": {"dense": 5_000, "kept": 1_000},
        "turns": [{"repeats": 2, "rows": rows}],
        "operators": MADE.to_json(),
    }
    result = SuiteResult({"scenario": {}, "cases": [case]})
    lines = list(suite_operators.render(result))
    assert "| convolutions | 10 | 5.00 | 50.0% | 0.50 | 100 | 50% |" in lines
    assert "| Add | 30 | 2.00 | 20.0% |  |  |  |" in lines
    assert "| the rest, and between them |  | 2.00 | 20.0% |  |  |  |" in lines
    assert "over supernet's that is 2.00 and 4.36; the plan was measured at 1.20." in lines[-2]
    assert result.best_ratio("some-mask", "supernet") == pytest.approx(12 / 2.75)
    del case["operators"]
    assert not list(suite_operators.render(result))
