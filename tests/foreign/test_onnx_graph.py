"""Files are read, or refused with one clear message; structure is told from weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from small import value, write, write_sum
from stranger import FREE, Stranger, export_torchscript

from dipgo_compile.errors import GraphError, ModelError
from dipgo_compile.graphs.foreign import read, specialise, structure_sha256
from dipgo_compile.graphs.partition import node_scopes
from dipgo_compile.graphs.scopes import cut, known_scopes, note_scopes


@pytest.mark.parametrize(
    ("name", "scopes"),
    [
        ("/down.0/resnets.1/conv/Conv", ["", "down.0", "down.0.resnets.1", "down.0.resnets.1.conv", "Conv"]),
        ("/clock/clock.0/Gemm", ["", "clock", "clock.0", "Gemm"]),
        ("/a.0/a.0.1/a.0.1.2/Add", ["", "a.0", "a.0.1", "a.0.1.2", "Add"]),
        ("/Add", ["", "Add"]),
        ("Conv_17", []),
    ],
)
def test_scopes_in_node_names(name: str, scopes: list[str]) -> None:
    x = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("Relu", [x], name=name)
    graph = ir.Graph([x], list(node.outputs), nodes=[node], opset_imports={"": 17})
    note_scopes(graph)
    assert node_scopes(node) == scopes


def test_scopes_in_the_namespace() -> None:
    x = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("Relu", [x], name="n")
    node.metadata_props["namespace"] = ": a.Net/body: b.Body/body.0: b.Layer/relu: aten.relu.default"
    note_scopes(ir.Graph([x], list(node.outputs), nodes=[node], opset_imports={"": 17}))
    assert node_scopes(node) == ["", "body", "body.0", "relu"]


def test_both_exporters_name_the_same_modules(today, torchscript) -> None:
    assert known_scopes(read(today.path).graph) == known_scopes(read(torchscript.path).graph)


def test_structure_is_not_weights(torchscript, tmp_path: Path) -> None:
    deeper, retrained = tmp_path / "deeper.onnx", tmp_path / "retrained.onnx"
    export_torchscript(Stranger(stages=4).eval(), deeper, FREE)
    export_torchscript(Stranger().eval(), retrained, FREE)
    original, other, same = (structure_sha256(read(path)) for path in (torchscript.path, deeper, retrained))
    assert same == original != other


def test_names_inside_are_not_structure(tmp_path: Path) -> None:
    path = write_sum(tmp_path / "a.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = f"other{node.name}"
        node.input[:] = ["moved" if name == "shifted" else name for name in node.input]
        node.output[:] = ["moved" if name == "shifted" else name for name in node.output]
    onnx.save(model, tmp_path / "b.onnx")
    assert structure_sha256(read(tmp_path / "b.onnx")) == structure_sha256(read(path))
    model.graph.node[0].attribute[0].i = TensorProto.DOUBLE
    onnx.save(model, tmp_path / "c.onnx")
    assert structure_sha256(read(tmp_path / "c.onnx")) != structure_sha256(read(path))


def test_free_dimensions_are_fixed_everywhere(torchscript) -> None:
    shapes = {"x": (3, 4, 16, 8), "t": (3,), "text": (3, 7, 12), "strength": (3,)}
    given = read(torchscript.path)
    nodes = len(given.graph)
    fixed = specialise(given, shapes)
    values = [value for node in fixed.graph for value in node.outputs]
    assert all(value.shape is not None and value.shape.is_static() for value in values)
    assert fixed.graph.outputs[0].shape == ir.Shape((3, 4, 16, 8))
    assert not [node for node in fixed.graph if node.op_type in ("Shape", "Constant", "Identity")]
    assert len(given.graph) == nodes  # it was a copy


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="cannot read the ONNX file: No such file"):
        read("nowhere.onnx")


def test_a_file_that_is_not_onnx(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("<html>not found</html>")
    with pytest.raises(ModelError, match="cannot read the ONNX file"):
        read(tmp_path / "a.onnx")


def test_an_old_opset(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="opset 16") as error:
        read(write_sum(tmp_path / "a.onnx", opset=16))
    assert "version_converter" in str(error.value)


def test_weights_that_were_left_behind(today, tmp_path: Path) -> None:
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(today.path.read_bytes())
    with pytest.raises(ModelError, match=r"weights are missing: .*today.onnx.data"):
        read(moved)


def branching(path: Path) -> str:
    """Adds 1 or 2, as the sample's first element decides."""
    branches = {
        name: helper.make_graph(
            [helper.make_node("Add", ["x", weight], [name])], name, [], [value(name, None)]
        )
        for name, weight in (("then", "one"), ("else", "two"))
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["decides"], to=TensorProto.BOOL),
        helper.make_node(
            "If", ["decides"], ["eps"], "branch", then_branch=branches["then"], else_branch=branches["else"]
        ),
    ]
    weights = {"one": np.float32(1), "two": np.float32(2)}
    return write(path, [value("x", (1, 4, 8, 8))], [value("eps", None)], nodes, weights)


def test_control_flow_that_depends_on_values(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="'branch' is a If"):
        specialise(read(branching(tmp_path / "a.onnx")), {"x": (1, 4, 8, 8)})


def test_pieces_between_cuts(tmp_path: Path) -> None:
    graph = read(write_sum(tmp_path / "a.onnx")).graph
    assert cut(graph, ("eps", "x", "shifted"), "x") == ("shifted", "eps")
    assert {node.name: node_scopes(node)[1:-1] for node in graph} == {
        "/clock/Cast": ["shifted"],
        "/clock/ReduceMean": ["shifted"],
        "/layers.0/Add": ["shifted"],
        "/layers.1/Mul": ["eps"],
    }


def test_before_the_first_cut_and_after_the_last_is_no_block(tmp_path: Path) -> None:
    graph = read(write_sum(tmp_path / "a.onnx")).graph
    assert cut(graph, ("mean", "shifted"), "x") == ("shifted",)
    assert [node_scopes(node)[1:-1] for node in graph] == [[], [], ["shifted"], []]


def test_a_tensor_to_cut_at_that_is_not_there(tmp_path: Path) -> None:
    graph = read(write_sum(tmp_path / "a.onnx")).graph
    with pytest.raises(GraphError, match="no tensor 'shift'") as error:
        cut(graph, ("x", "shift"), "x")
    assert "available: shifted" in str(error.value)


def test_cuts_with_nothing_between(tmp_path: Path) -> None:
    graph = read(write_sum(tmp_path / "a.onnx")).graph
    with pytest.raises(GraphError, match="nothing between 'x' and 't'"):
        cut(graph, ("x", "t"), "x")
