"""modulated_norm: layer normalisation scales and shifts by what the timestep decides as it normalises.

The adaptive layer norm of PixArt-alpha (adaLN-single) multiplies what it normalised by ``1 + scale`` and adds
``shift``, one row of each for every sample. All samples of a call have the same timestep, so rows that depend
on nothing else are alike, and one of them can be the scale and the bias of the kernel, which writes a tensor
once instead of three times. A DiT's rows depend on the class, too: they stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRule

from dipgo_compile.graphs.early import early_tensors
from dipgo_compile.graphs.subgraph import evaluate
from dipgo_compile.rewrites.base import Rewrite, constant, describe, dims, producer, weight

KEPT = ("epsilon", "stash_type")  # attributes that stay what they were
TIMESTEP = 500.0  # one at which rows are compared; what else they depend on is the same at all
TOLERANCE = 1e-6  # relative to the largest value: rows of a matrix product may be rounded differently


class ModulatedNorm(Rewrite):
    """LayerNormalization -> Mul -> Add becomes LayerNormalization, where factor and term are rows that are
    the same for all samples at any ``timestep``, an input that has one value for all samples.

    Left alone: a layer norm with weights of its own, or one whose result others read too.
    """

    name = "modulated_norm"
    backends = frozenset({"onnxruntime"})

    def __init__(self, timestep: str) -> None:
        self._timestep = timestep
        self._alike: frozenset[str] = frozenset()

    def __call__(self, model: ir.Model) -> int:
        """See ``Rewrite``."""
        self._alike = frozenset(_alike(model, self._timestep))
        return super().__call__(model)

    def rules(self) -> Sequence[RewriteRule]:
        return (RewriteRule(_pattern, _replacement, self._is_valid, name=self.name),)

    def _is_valid(
        self, context: Any, x: ir.Value, scale: ir.Value, shift: ir.Value, **made: ir.Value
    ) -> bool:
        return (
            _is_plain(producer(made["normalized"]))
            and dims(x) == dims(made["modulated"])  # nothing is broadcast to a larger shape
            and {scale.name, shift.name} <= self._alike
        )


def _pattern(op: Any, x: Any, scale: Any, shift: Any) -> Any:
    normalized = op.LayerNormalization(x, _allow_other_inputs=True, _outputs=["normalized"])
    return op.Add(op.Mul(normalized, scale), shift, _outputs=["modulated"])


def _replacement(
    op: Any, x: ir.Value, scale: ir.Value, shift: ir.Value, normalized: ir.Value, modulated: ir.Value
) -> ir.Value:
    node, origin = producer(normalized), producer(modulated)
    same = {name: node.attributes[name].value for name in KEPT if name in node.attributes}
    numbers = [
        constant(op, origin, f"modulated_norm.{number}", np.array([number], dtype=np.int64))
        for number in (0, 1, (dims(x) or ())[-1])
    ]
    rows = (_first_row(op, origin, value, *numbers) for value in (scale, shift))
    return describe(op.LayerNormalization(x, *rows, axis=-1, **same), origin, modulated)


def _first_row(
    op: Any, origin: ir.Node, value: ir.Value, first: ir.Value, second: ir.Value, width: ir.Value
) -> ir.Value:
    """The row of the first sample, as a vector."""
    shape = dims(value) or ()
    row = describe(op.Slice(value, first, second, first), origin, value, (1, *shape[1:]))
    return describe(op.Reshape(row, width), origin, value, shape[-1:])


def _is_plain(norm: ir.Node) -> bool:
    """Whether a layer norm normalises the last axis, and does nothing else."""
    x, scale, bias = (*norm.inputs, None)[:3]
    shape = dims(x) if x is not None else None
    return (
        shape is not None
        and norm.attributes.get_int("axis", -1) in (-1, len(shape) - 1)
        and _is_all(scale, 1.0)
        and (bias is None or _is_all(bias, 0.0))
    )


def _is_all(value: ir.Value | None, number: float) -> bool:
    data = None if value is None else weight(value)
    return data is not None and bool((data.numpy() == number).all())


def _alike(model: ir.Model, timestep: str) -> Iterator[str]:
    """The rows that may modulate, by name, and are the same for all samples."""
    early = early_tensors(model.graph, timestep)
    names = list(dict.fromkeys(name for name in _rows_beside_norms(model.graph) if name in early))
    given = next((value for value in model.graph.inputs if value.name == timestep), None)
    if not names or given is None or given.dtype is None:
        return
    feed = np.full(dims(given) or (), TIMESTEP, dtype=given.dtype.numpy())
    for name, rows in zip(names, *evaluate(model, [{timestep: feed}], names), strict=True):
        if np.abs(rows - rows[:1]).max() <= TOLERANCE * np.abs(rows).max():
            yield name


def _rows_beside_norms(graph: ir.Graph) -> Iterator[str]:
    """Factors of what was normalised, and terms of such products: a row for each sample, or one for all."""
    products: set[ir.Value] = set()
    for node in graph:
        if node.op_type not in ("Mul", "Add") or len(node.inputs) != 2:
            continue
        for value, other in (node.inputs, node.inputs[::-1]):
            if value is None or other is None or other.name is None or not _is_row(other):
                continue
            made_by = value.producer()
            after_norm = made_by is not None and made_by.op_type == "LayerNormalization"
            if value in products if node.op_type == "Add" else after_norm:
                products.update(node.outputs)
                yield other.name


def _is_row(value: ir.Value) -> bool:
    shape = dims(value)
    return shape is not None and len(shape) > 1 and shape[-1] > 1 and all(size == 1 for size in shape[1:-1])
