"""One set of weights for the graphs of several shapes.

A graph is exported and rewritten anew for every shape. Its weights are tensors of its own then, most of them
views of the same memory, some computed by a rewrite and so copies of an earlier graph's. Here each graph gets
the tensors of the graphs before it where they hold the same bytes: copies are let go of at once, and
``engines.write_engines`` stores what graphs share once.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from dipgo_compile.graphs.engines import INLINE_BYTES


class SharedWeights:
    """The large tensors of the graphs that it has seen. Hashing is all it costs, about a second a GB."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], ir.TensorProtocol] = {}

    def share(self, model: ir.Model) -> None:
        """Change the graph's initializers, in place, to tensors seen before, where those are equal in dtype,
        shape and bytes.
        """
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= INLINE_BYTES:
                value.const_value = self._known.setdefault(_identity(tensor), tensor)


def _identity(tensor: ir.TensorProtocol) -> tuple[object, ...]:
    data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    return tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(data.data).digest()
