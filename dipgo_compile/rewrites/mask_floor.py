"""mask_floor: what a mask rules out weighs e^-64, not a denormal number.

A mask adds -10000 to the score of a key that a query must not see, PixArt-alpha's to those of padding. ONNX
Runtime's kernel takes the exponential to be 1e-45 there, the least float32 above 0, and multiplies every
value by it: denormal numbers, at which a processor is many times slower. e^-64 is 1.6e-28, as good as
nothing to a sum in float32 (6e-8), unless a score that is ruled out is larger by 47 than all that are not.

Softmax doesn't see what all keys have in common, so a mask that says -10000 to all of them, or prefers one
key by little, still does: the floor is 64 below a query's largest entry.

A cross-attention of 2 x 1024 queries and 120 keys, half of them padding (PixArt-alpha at 512x512), 2 cores:
25 and 17 ms.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from dipgo_compile.program import Array
from dipgo_compile.rewrites.base import Rewrite, describe, producer

FLOOR = -64.0
MASK = 5  # MultiHeadAttention's input ``attention_bias``
OPSET = 18  # from which on ReduceMax is told its axes by an input


class MaskFloor(Rewrite):
    """The additive masks of MultiHeadAttention are limited from below, each once for all that share it.

    Left alone: a mask that the caller gives, which is made in no block; float16, in which e^-64 is 0.
    """

    name = "mask_floor"
    backends = frozenset({"onnxruntime"})
    cpu_only = True

    def __call__(self, model: ir.Model, blocks: Collection[str] = ()) -> int:
        """Change ``model`` in place; return the number of masks limited, each where it is made."""
        if model.opset_imports.get("", 0) < OPSET:
            return 0
        masked: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            if node.op_type == "MultiHeadAttention" and len(node.inputs) > MASK:
                mask = node.inputs[MASK]
                if mask is not None and mask.dtype == ir.DataType.FLOAT and mask.producer() is not None:
                    masked.setdefault(mask, []).append(node)
        for mask, nodes in masked.items():
            limited = _limited(model.graph, mask)
            for node in nodes:
                node.replace_input_with(MASK, limited)
        return len(masked)


def _limited(graph: ir.Graph, mask: ir.Value) -> ir.Value:
    """``mask`` less its largest entry for a query, at least FLOOR: three nodes, where ``mask`` is made."""
    maker = producer(mask)
    largest = ir.node("ReduceMax", [mask, _initializer(graph, "mask_floor.axes", np.array([-1]))])
    shifted = ir.node("Sub", [mask, largest.outputs[0]])
    limited = ir.node("Max", [shifted.outputs[0], _initializer(graph, "mask_floor", np.float32(FLOOR))])
    for node in (largest, shifted, limited):
        describe(node.outputs[0], maker, mask)
        node.outputs[0].name = f"{mask.name}.{node.op_type}"
        node.name = f"{mask.name}.node_{node.op_type}"
    if mask.shape is not None:
        largest.outputs[0].shape = ir.Shape((*mask.shape[:-1], 1))
    graph.insert_after(maker, (largest, shifted, limited))
    return limited.outputs[0]


def _initializer(graph: ir.Graph, name: str, data: Array | np.float32) -> ir.Value:
    """A constant that all masks share."""
    if name not in graph.initializers:
        graph.register_initializer(ir.Value(name=name, const_value=ir.tensor(data, name=name)))
    return graph.initializers[name]
