"""What the exporter writes and ONNX Runtime refuses, put right.

Not a rewrite: the unpruned denoiser, which no rewrite touches, has to run too. PixArt needs both repairs.
"""

from __future__ import annotations

import onnx_ir as ir


def repair(graph: ir.Graph) -> None:
    """Change ``graph`` in place. Its results stay the same."""
    _drop_empty_squeezes(graph)
    _mask_every_query(graph)


def _drop_empty_squeezes(graph: ir.Graph) -> None:
    """Torch's ``squeeze`` of a dimension that isn't 1 changes nothing; ONNX's is an error."""
    for node in tuple(graph):
        if node.op_type != "Squeeze" or len(node.inputs) < 2:
            continue
        value, axes = node.inputs[:2]
        constant = None if axes is None else ir.convenience.get_const_tensor(axes)
        if value is None or value.shape is None or constant is None:
            continue
        if any(value.shape[int(axis)] != 1 for axis in constant.numpy().ravel()):
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            graph.remove(node, safe=True)


def _mask_every_query(graph: ir.Graph) -> None:
    """A mask that is the same for all queries becomes one with a row for each.

    ONNX lets a mask broadcast over batch, heads and queries; ONNX Runtime's kernel for the CPU does so over
    batch and heads alone. All attentions that share a mask share its rows, and heads are left to broadcast.
    """
    made: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in tuple(graph):
        if node.op_type != "Attention" or len(node.inputs) < 4:
            continue
        query, mask = node.inputs[0], node.inputs[3]
        if query is None or mask is None or query.shape is None or mask.shape is None:
            continue
        queries = query.shape[-2]
        if len(mask.shape) != 4 or mask.shape[-2] != 1 or not isinstance(queries, int) or queries == 1:
            continue
        narrow = _before_heads(mask)
        if (narrow, queries) not in made:
            made[narrow, queries] = _repeated(graph, narrow, queries)
        node.replace_input_with(3, made[narrow, queries])
        maker = mask.producer()
        if maker is not None and not mask.uses():
            graph.remove(maker, safe=True)


def _before_heads(mask: ir.Value) -> ir.Value:
    """The mask as it was before it was repeated for every head, if it was."""
    maker = mask.producer()
    if maker is None or maker.op_type != "Expand" or maker.inputs[0] is None:
        return mask
    narrow = maker.inputs[0]
    return narrow if narrow.shape is not None and len(narrow.shape) == 4 else mask


def _repeated(graph: ir.Graph, mask: ir.Value, queries: int) -> ir.Value:
    """``mask``, (batch, heads or 1, 1, keys), with a row for each query."""
    assert mask.shape is not None
    wide = ir.Shape((*mask.shape[:2], queries, mask.shape[3]))
    name = f"{mask.name}_every_query_{queries}"
    size = ir.Value(name=f"{name}_shape", const_value=ir.tensor(wide.numpy(), name=f"{name}_shape"))
    graph.register_initializer(size)
    node = ir.node("Expand", [mask, size], name=f"node_{name}")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, mask.type, wide
    maker = mask.producer()
    if maker is None:
        graph.insert_before(graph[0], node)
    else:
        node.metadata_props.update(maker.metadata_props)
        graph.insert_after(maker, node)
    return node.outputs[0]
