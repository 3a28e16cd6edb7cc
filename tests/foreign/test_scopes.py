"""MACs counted in graphs, and the modules that would do as blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx import helper
from onnx_denoiser import File
from small import value, write

from dipgo_compile.errors import GraphError, MaskError
from dipgo_compile.graphs.candidates import candidates, pattern_of
from dipgo_compile.graphs.foreign import read, specialise
from dipgo_compile.macs.graph import count_graph_macs
from dipgo_compile.models.onnx_file import OnnxModel, open_onnx
from dipgo_compile.models.source import Model

PIXELS = 8 * 8


def macs_of(path: str, batch: int = 1) -> int:
    model = open_onnx(path)
    return model.macs(model.geometry(batch), ()).total


def test_tiny_sd_counts_as_in_pytorch(exported_tiny_sd: tuple[Model, Path]) -> None:
    model, path = exported_tiny_sd
    geometry, blocks = model.geometry(2), model.blocks()
    file = open_onnx(str(path))
    assert file.macs(geometry, blocks) == model.macs(geometry, blocks)
    assert file.blocks() == blocks
    assert file.blocks("layer") == model.blocks("layer")
    assert pattern_of(blocks, model.scopes) == r"down_blocks\.\d+|mid_block|up_blocks\.\d+"


def test_both_exporters_count_the_same(today: File, torchscript: File) -> None:
    """The older one writes a linear layer as MatMul or Gemm, and neither counts attention's products."""
    scopes = ("stages.1", "stages.1.attention", "leave", "clock")
    found = [
        model.macs(model.geometry(batch), scopes)
        for model in (today.open(), torchscript.open())
        for batch in (1, 2)
    ]
    assert found[0] == found[1] == found[2] == found[3]
    tokens = 5 * 2 * 12 * 16 + PIXELS * 2 * 16 * 16  # keys and values of the text; queries and output
    assert found[0].by_scope["stages.1.attention"] == tokens
    assert found[0].by_scope["leave"] == PIXELS * 4 * 32 * 9
    assert found[0].by_scope["clock"] == 2 * 16 * 16


def test_a_call_without_blocks_computes_what_leads_past_them(today: File) -> None:
    """The first convolution, which the last one reads too; nothing where a block reaches from end to end."""
    model = today.open()
    macs = model.macs(model.geometry(), model.blocks())
    assert macs.idle == macs.glue > 0
    whole = today.open(cuts=("x", "eps"))
    assert whole.macs(whole.geometry(), whole.blocks()).idle == 0


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "expected"),
    [
        ("Conv", (6, 2, 3, 3), {"group": 2, "pads": [1] * 4}, PIXELS * 6 * 2 * 9),
        ("Conv", (6, 4, 2, 2), {"strides": [2, 2]}, 16 * 6 * 4 * 4),
        ("ConvTranspose", (4, 6, 2, 2), {"strides": [2, 2]}, PIXELS * 4 * 6 * 4),
        ("MatMul", (8, 5), {}, 4 * PIXELS * 5),
    ],
)
def test_by_hand(kind: str, shape: tuple[int, ...], attributes: dict, expected: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node(kind, ["x", "weight"], ["made"], **attributes),
        helper.make_node("ReduceMean", ["made"], ["mean"]),
        helper.make_node("Sum", ["x", "mean", "t"], ["eps"]),
    ]
    inputs = [value("x", (1, 4, 8, 8)), value("t", ())]
    weights = {"weight": torch.zeros(shape).numpy()}
    assert macs_of(write(tmp_path / "a.onnx", inputs, [value("eps", None)], nodes, weights)) == expected


def test_a_transposed_gemm(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=3),  # (32, 8)
        helper.make_node("Gemm", ["flat", "weight"], ["made"], transA=1),
        helper.make_node("ReduceMean", ["made"], ["mean"], keepdims=0),
        helper.make_node("Sum", ["x", "mean", "t"], ["eps"]),
    ]
    inputs = [value("x", (1, 4, 8, 8)), value("t", ())]
    weights = {"weight": torch.zeros(32, 5).numpy()}
    assert macs_of(write(tmp_path / "a.onnx", inputs, [value("eps", None)], nodes, weights)) == 8 * 5 * 32


def test_a_product_of_unknown_shape(torchscript: File) -> None:
    with pytest.raises(GraphError, match="is unknown, so the MACs of the Gemm"):
        count_graph_macs(read(torchscript.path), 1, ())


def test_an_unknown_scope(today: File) -> None:
    model = today.open()
    with pytest.raises(MaskError, match=r"no block 'stages.7'"):
        model.macs(model.geometry(), ("stages.7",))


def test_what_crosses_a_border(file: File) -> None:
    """A stage reads the image, the time's shift and the text; it hands on the image. What the time's
    activation alone decides is not kept for a reused stage, though the newest exporter computes it in the
    first.
    """
    model = file.open()
    geometry = model.geometry()
    graph = model.specialised(geometry).graph
    image = geometry.batch * 16 * PIXELS * 4
    for candidate in candidates(graph, model.roles.sample, geometry.batch, model.blocks()):
        assert (candidate.inputs, candidate.outputs, candidate.output_bytes) == (3, 1, image)
        assert 0 < candidate.input_bytes - image < 4096
        assert candidate.macs == model.macs(geometry, (candidate.scope,)).by_scope[candidate.scope]


def test_suggestions(file: File) -> None:
    model = file.open()
    assert model.blocks() == ("stages.0", "stages.1", "stages.2")
    assert pattern_of(model.blocks(), model.scopes) == r"stages\.\d+"
    assert set(model.blocks("layer")) == {
        f"stages.{i}.{part}" for i in range(3) for part in ("conv", "attention")
    }


def test_a_module_around_everything_is_looked_into(tmp_path: Path) -> None:
    """``/net/layers.0/Conv``: the outermost module holds all the work, and is no block."""
    nodes = [helper.make_node("Add", ["x", "t"], ["h0"], "/net/Add")]
    for index in range(3):
        name = f"/net/layers.{index}/Conv"
        nodes.append(helper.make_node("Conv", [f"h{index}", "weight"], [f"h{index + 1}"], name, pads=[1] * 4))
    inputs = [value("x", (1, 4, 8, 8)), value("t", ())]
    weights = {"weight": torch.zeros(4, 4, 3, 3).numpy()}
    model: OnnxModel = open_onnx(write(tmp_path / "a.onnx", inputs, [value("h3", None)], nodes, weights))
    assert model.blocks() == ("net.layers.0", "net.layers.1", "net.layers.2")


def test_a_node_without_scopes_belongs_with_its_neighbours(torchscript: File) -> None:
    """The exporter forgets a node's scopes here and there: its module hands on nothing more for that."""
    graph = specialise(
        read(torchscript.path), {"x": (1, 4, 8, 8), "t": (1,), "text": (1, 5, 12), "strength": (1,)}
    ).graph
    known = candidates(graph, "x", 1, ("stages.1",))
    node = next(node for node in graph if node.op_type == "Softmax" and "stages.1" in (node.name or ""))
    node.metadata_props.clear()
    assert candidates(graph, "x", 1, ("stages.1",)) == known


def test_a_pattern_for_some_of_a_row() -> None:
    scopes = ("a.0", "a.1", "a.2", "b")
    assert pattern_of(("a.0", "a.1", "a.2"), scopes) == r"a\.\d+"
    assert pattern_of(("a.0", "a.2"), scopes) == r"a\.0|a\.2"
