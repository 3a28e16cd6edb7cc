"""Small ONNX files by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]


def value(name: str, shape: Shape | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def write(
    path: Path,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, Any] | None = None,
    opset: int = 17,
) -> str:
    """The path, as a MODEL specifier."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return str(path)


def write_sum(path: Path, *inputs: onnx.ValueInfoProto, **options: Any) -> str:
    """A denoiser that adds ``t`` to ``x`` and multiplies by ``gain``; further inputs are read and dropped."""
    nodes = [
        helper.make_node("Cast", ["t"], ["time"], "/clock/Cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["time"], ["mean"], "/clock/ReduceMean", keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["shifted"], "/layers.0/Add"),
        helper.make_node("Mul", ["shifted", "gain"], ["eps"], "/layers.1/Mul"),
    ]
    given = {item.name: item for item in inputs}
    usual = (value("x", ("n", 4, 8, 8)), value("t", ("n",), TensorProto.INT64))
    all_inputs = [given.pop(item.name, item) for item in usual] + list(given.values())
    gain = np.ones((1, 4, 1, 1), np.float32)
    return write(path, all_inputs, [value("eps", None)], nodes, {"gain": gain}, **options)
