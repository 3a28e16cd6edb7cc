"""What the exporter writes and ONNX Runtime refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from dipgo_compile.graphs.repair import repair

BOTH = """
<ir_version: 10, opset_import: ["" : 23]>
net (float[2,4,8,6] query, float[2,4,3,6] key, float[2,4,3,6] value, float[2,1,1,3] bias)
  => (float[2,4,8,6] out)
<int64[4] heads = {2,4,1,3}, int64[1] one = {1}>
{
    first = Squeeze(query, one)
    wide = Expand(bias, heads)
    second = Attention(first, key, value, wide)
    third = Attention(second, key, value, bias)
    out = Neg(third)
}
"""
TOLERANCE = 1e-6  # one softmax and two products of unit numbers in float32


def graph() -> ir.Model:
    model = ir.from_proto(onnx.parser.parse_model(BOTH))
    shapes = {"first": (2, 4, 8, 6), "wide": (2, 4, 1, 3), "second": (2, 4, 8, 6), "third": (2, 4, 8, 6)}
    for node in model.graph:
        (output,) = node.outputs
        if output.name in shapes:
            output.shape, output.dtype = ir.Shape(shapes[output.name]), ir.DataType.FLOAT
    return model


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, bias: np.ndarray) -> np.ndarray:
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1]) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ value


def test_a_repaired_graph_runs_and_is_right(tmp_path: Path) -> None:
    model, file = graph(), str(tmp_path / "net.onnx")
    ir.save(model, file)
    with pytest.raises(Exception, match="Squeeze"):
        ort.InferenceSession(file)
    repair(model.graph)
    ir.save(model, file)
    generator = np.random.default_rng(0)
    shapes = {"query": (2, 4, 8, 6), "key": (2, 4, 3, 6), "value": (2, 4, 3, 6), "bias": (2, 1, 1, 3)}
    feeds = {name: generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    (found,) = ort.InferenceSession(file).run(None, feeds)
    key, value, bias = feeds["key"], feeds["value"], feeds["bias"]
    expected = -attention(attention(feeds["query"], key, value, bias), key, value, bias)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_attentions_share_the_rows_of_their_mask() -> None:
    model = graph()
    repair(model.graph)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Expand") == 1 and "Squeeze" not in kinds
    (rows,) = (node.outputs[0] for node in model.graph if node.op_type == "Expand")
    assert rows.shape == ir.Shape((2, 1, 8, 3))
    assert len(rows.uses()) == 2
