import pytest
from toy_denoiser import BLOCKS, SPECS, toy_graph, toy_model

from dipgo_compile.errors import GraphError
from dipgo_compile.graphs.partition import SCOPES, partition


def test_blocks_and_glue_in_topological_order():
    cut = [(b.name, b.scope, b.inputs, b.outputs) for b in toy_graph().blocks]
    assert cut == [
        ("stem", None, ("sample",), ("stem",)),
        ("embedding", None, ("timestep",), ("activated",)),
        ("down", "down", ("stem", "activated", "text"), ("hidden", "skip")),
        ("up", "up", ("hidden", "activated", "skip"), ("merged",)),
        ("head", None, ("merged",), ("noise_pred",)),
    ]


def test_a_node_without_scope_joins_its_neighbours():
    up = next(block for block in toy_graph().blocks if block.scope == "up")
    assert "node_forgotten" in up.nodes


def test_an_expression_that_blocks_share_belongs_to_none():
    down = next(block for block in toy_graph().blocks if block.scope == "down")
    assert "node_activated" not in down.nodes  # though the exporter noted it there


def test_consumers_walk_through_glue():
    assert toy_graph().consumers() == {"down": frozenset({"up"}), "up": frozenset({None})}


def test_unknown_scope_names_near_ones():
    with pytest.raises(GraphError) as error:
        partition(toy_model(), ("down", "upp"), SPECS)
    assert "upp" in error.value.what
    assert error.value.available == ("up",)


def test_nested_scopes_are_refused():
    model = toy_model()
    for node in model.graph:
        if "'down'" in node.metadata_props.get(SCOPES, ""):
            node.metadata_props[SCOPES] = repr(["", "down", "down.inner", "x"])
    with pytest.raises(GraphError, match="inside one another"):
        partition(model, ("down", "down.inner", "up"), SPECS)


def test_blocks_that_need_each_other_are_refused():
    model = toy_model()
    for node in model.graph:  # stem and head become one block: it feeds `down` and reads from `up`
        if node.outputs[0].name in ("stem", "noise_pred"):
            node.metadata_props[SCOPES] = repr(["", "ends", "x"])
    with pytest.raises(GraphError, match="need each other"):
        partition(model, (*BLOCKS, "ends"), SPECS)


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_tiny_sd_is_cut_at_every_granularity(granularity, tiny_sd):
    scopes = tiny_sd.model.blocks(granularity)
    graph = partition(tiny_sd.onnx, scopes, tiny_sd.model.inputs(tiny_sd.geometry))
    assert graph.scopes == scopes
    assert graph.consumers()[scopes[-1]] == frozenset({None})
    nodes = [node for block in graph.blocks for node in block.nodes]
    assert sorted(nodes) == sorted(node.name for node in tiny_sd.onnx.graph)  # each node in exactly one block
