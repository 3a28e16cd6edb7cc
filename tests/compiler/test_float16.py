"""Graphs in float16: what is converted, what is kept. tests/families holds denoisers against the SuperNet."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from reference import options

from dipgo_compile.errors import BackendError, GraphError
from dipgo_compile.graphs.float16 import half, to_float16
from dipgo_compile.graphs.subgraph import evaluate

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
TEXT = """
<ir_version: 10, opset_import: ["" : 23]>
toy (float[1, 4] sample, float[1] timestep, float[1, 2] sizes) => (float[1, 4] noise_pred)
<float[4] weight = {0.1, 0.2, 0.3, 0.4}, float tiny = {1e-12}, float[4] freqs = {1.0, 0.5, 0.25, 0.125},
 float[2, 4] mix = {1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0}>
{
  angles = Mul(timestep, freqs)
  embedded = Sin(angles)
  wide = MatMul(sizes, mix)
  turned = Cos(wide)
  scaled = Mul(sample, weight)
  waved = Sin(scaled)
  timed = Add(waved, embedded)
  sized = Add(timed, turned)
  low = Constant <value = float {0.5}> ()
  clipped = Max(sized, low)
  safe = Add(clipped, tiny)
  noise_pred = Div(clipped, safe)
}
"""


def toy() -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(TEXT)))


def test_angles_of_times_and_sizes_stay_in_float32_and_the_rest_does_not() -> None:
    model = toy()
    report = to_float16(model, "sample", "timestep")
    kept = {node.op_type: node for node in model.graph if node.outputs[0].dtype == FLOAT}
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {FLOAT}
    dtype = {str(value.name): value.dtype for node in model.graph for value in node.outputs}
    names = ("angles", "embedded", "wide", "turned", "clipped")  # Max has no kernel everywhere
    assert [dtype[name] for name in names] == [FLOAT] * len(names)
    assert [dtype[name] for name in ("scaled", "waved", "timed", "sized", "safe")] == [HALF] * 5
    assert "Constant" not in kept
    assert report.modified and report.summary.startswith("5 of 11 nodes stay in float32")


def test_the_converted_graph_computes_what_it_did() -> None:
    generator = np.random.default_rng(0)
    feeds = {
        "sample": generator.standard_normal((1, 4), np.float32),
        "timestep": np.array([981.0], np.float32),
        "sizes": np.array([[1024.0, 771.0]], np.float32),  # float16 would make 771 of both 771.2 and 770.8
    }
    names = ["sized.fp32", "noise_pred"]
    model = toy()
    to_float16(model, "sample", "timestep")
    found = evaluate(model, [feeds], names)[0]
    expected = evaluate(toy(), [feeds], ["sized", "noise_pred"])[0]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-3)  # four operations on values below 4


def test_weights_keep_their_kind() -> None:
    """Infinities stay, finite numbers stay finite, and no divisor becomes zero."""
    given = np.array([np.inf, -np.inf, np.nan, 1e9, -1e9, 1e-12, -1e-12, 0.0, 0.1], np.float32)
    limit = float(np.finfo(np.float16).max)
    tiny = float(np.finfo(np.float16).smallest_subnormal)
    expected = np.array([np.inf, -np.inf, np.nan, limit, -limit, tiny, -tiny, 0.0, 0.1], np.float16)
    np.testing.assert_array_equal(half(given), expected)


def test_control_flow_is_refused() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[1] sample, float[1] timestep, bool c) => (float[1] noise_pred) {
      noise_pred = If(c) <then_branch = t () => (float[1] a) { a = Identity(sample) },
                          else_branch = e () => (float[1] b) { b = Neg(sample) }>
    }"""
    with pytest.raises(GraphError, match="If holds a graph of its own") as caught:
        to_float16(ir.from_proto(onnx.parser.parse_model(text)), "sample", "timestep")
    assert "--precision fp32" in str(caught.value)


def test_a_cpu_is_not_offered_float16() -> None:
    with pytest.raises(BackendError, match="does not compute in 'fp16' on cpu") as caught:
        options(precision="fp16")
    assert caught.value.mend == 'fp16 is for cuda with the backend "onnxruntime"'
