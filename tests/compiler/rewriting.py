"""Small graphs as text, and rewriting and running them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime

from dipgo_compile.graphs.partition import SCOPES
from dipgo_compile.rewrites import default_rewrites

TOLERANCE = 1e-5  # relative to the largest value: float32 rounds at 6e-8, through some hundred layers


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, dict(feeds))


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def rewrite_named(name: str, model: ir.Model, blocks: Collection[str] = ()) -> int:
    (found,) = (rewrite for rewrite in default_rewrites("onnxruntime") if rewrite.name == name)
    return found(model, blocks)


def parsed(text: str) -> ir.Model:
    """A graph whose nodes are in the module ``layer``, each in one of its own named after its output."""
    header = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>'
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(header + text)))
    for node in model.graph:
        name = node.outputs[0].name
        node.metadata_props[SCOPES] = repr(["", "layer", f"layer.{name}"])
    return model


def feeds_of(model: ir.Model) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        value.name: generator.standard_normal(value.shape.numpy()).astype(np.float32)
        for value in model.graph.inputs
    }
