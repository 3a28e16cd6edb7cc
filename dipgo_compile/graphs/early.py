"""Binding-time analysis: a tensor is *early* when it depends on the timestep and on weights only.

The timesteps of all calls are known at build time, and so are early tensors.
"""

from __future__ import annotations

import math

import onnx_ir as ir


def early_tensors(graph: ir.Graph, timestep: str) -> set[str]:
    """Names of the tensors that depend on nothing but the timestep and weights.

    A broadcast to a larger shape is left to the engine: its result would only fill memory.
    """
    early: set[ir.Value] = {value for value in graph.inputs if value.name == timestep}
    for node in graph:
        read = [value for value in node.inputs if value is not None and not value.is_initializer()]
        if all(value in early for value in read) and not is_large_broadcast(node):
            early.update(node.outputs)
    names = {value.name for value in early if value.name is not None}
    return names - {timestep}


def is_large_broadcast(node: ir.Node) -> bool:
    """Whether the node repeats its input more than 16 times."""
    if node.op_type not in ("Expand", "Tile"):
        return False
    shapes = [value.shape for value in (node.inputs[0], node.outputs[0]) if value is not None and value.shape]
    return len(shapes) == 2 and math.prod(shapes[1].numpy()) > 16 * math.prod(shapes[0].numpy())
