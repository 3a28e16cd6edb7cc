"""Engines in one graph, side by side, and apart again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from dipgo_compile.backends import joined
from dipgo_compile.program import Array

WIDTH = 32
MATRICES = {
    name: np.random.default_rng(seed).random((WIDTH, WIDTH), np.float32) for seed, name in enumerate("abc")
}
NBYTES = WIDTH * WIDTH * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("joined")
    (path / "weights.bin").write_bytes(b"".join(matrix.tobytes() for matrix in MATRICES.values()))
    return path


def engine(weights: str, bias: float = 0.0, opset: int = 23) -> onnx.ModelProto:
    """``y = x @ A @ B + bias`` for the weights "ab". The sum is in the branch of an If, and values go by the
    same names in all engines, but the weights lie where they lie.
    """
    nodes, last = [], "x"
    for number, _ in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"m{number}"], f"product{number}"))
        last = f"m{number}"
    sums = helper.make_graph([helper.make_node("Add", [last, "bias"], ["s"])], "sums", [], [_rows("s")])
    nodes.append(helper.make_node("If", ["true"], ["y"], "choice", then_branch=sums, else_branch=sums))
    tensors = [
        numpy_helper.from_array(np.array(True), "true"),
        numpy_helper.from_array(np.float32(bias), "bias"),
    ]
    tensors += [_stored(f"w{number}", weight) for number, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "engine", [_rows("x")], [_rows("y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _rows(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, WIDTH])


def _stored(name: str, weight: str) -> onnx.TensorProto:
    tensor = TensorProto(
        name=name, data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH], data_location=TensorProto.EXTERNAL
    )
    place = {"location": "weights.bin", "offset": "abc".index(weight) * NBYTES, "length": NBYTES}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def computed(model: onnx.ModelProto, folder: Path, rows: Array) -> Array:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": rows})[0])


def test_what_was_joined_comes_apart_as_it_was(folder: Path) -> None:
    rows = np.random.default_rng(3).random((2, WIDTH), np.float32)
    kinds = (("ab", 1.0), ("b", 2.0), ("bca", 3.0))
    parts = [*joined.split(joined.join([engine(*kind) for kind in kinds]), len(kinds))]
    for part, kind in zip(parts, kinds, strict=True):
        alone = engine(*kind)
        assert [node.op_type for node in part.graph.node] == [node.op_type for node in alone.graph.node]
        assert len(part.graph.initializer) == len(alone.graph.initializer)
        np.testing.assert_array_equal(computed(part, folder, rows), computed(alone, folder, rows))


def test_joined_engines_have_each_weight_once() -> None:
    graph = joined.join([engine("ab"), engine("b"), engine("ba")]).graph
    assert sum(tensor.data_location == TensorProto.EXTERNAL for tensor in graph.initializer) == 2
    assert len({node.name for node in graph.node}) == len(graph.node) == 8


def test_engines_are_joined_while_their_weights_fit_the_largest() -> None:
    models = {"a": engine("a"), "ab": engine("ab"), "ba": engine("ba"), "c": engine("c")}
    assert joined.group(models) == [["ab", "ba", "a"], ["c"]]
    assert joined.group({"a": engine("a"), "b": engine("b")}) == [["a"], ["b"]]


def test_engines_of_other_operators_or_with_functions_are_not_joined() -> None:
    special = engine("a")
    special.functions.add(name="f", domain="local")
    models = {"old": engine("ab", opset=22), "new": engine("ab"), "newer": engine("a"), "special": special}
    assert joined.group(models) == [["old"], ["new", "newer"], ["special"]]


def test_joined_graphs_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "MAX_NODES", 5)
    assert joined.group({"1": engine("a"), "2": engine("a"), "3": engine("a")}) == [["1", "2"], ["3"]]
