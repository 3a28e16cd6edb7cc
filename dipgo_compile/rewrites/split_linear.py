"""split_linear: the halves of a linear layer's result are two linear layers.

A GEGLU projects to twice the width and splits: ``Split`` copies a tensor that the matrix product could have
written in two places. Each half of the weight is a view of the whole, which goes, so weights take no more
space.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from dipgo_compile.rewrites.base import Form, Rewrite, describe, dims, producer, weight


def _pattern(op: Any, x: Any, matrix: Any, bias: Any) -> Any:
    projected = op.Add(op.MatMul(x, matrix, _outputs=["product"]), bias, _outputs=["projected"])
    return op.Split(projected, _outputs=["first", "second"])


def _is_valid(
    context: Any,
    matrix: ir.Value,
    bias: ir.Value,
    projected: ir.Value,
    first: ir.Value,
    second: ir.Value,
    **_: Any,
) -> bool:
    shape, half = dims(projected), dims(first)
    axis = producer(first).attributes.get_int("axis", 0)
    return (
        weight(matrix) is not None
        and weight(bias) is not None
        and len(matrix.uses()) == len(bias.uses()) == 1
        and shape is not None
        and half is not None
        and half == dims(second)
        and axis in (-1, len(shape) - 1)
        and (dims(matrix) or ())[1:] == shape[-1:]
        and dims(bias) == shape[-1:]
    )


def _replacement(
    op: Any,
    x: ir.Value,
    matrix: ir.Value,
    bias: ir.Value,
    product: ir.Value,
    projected: ir.Value,
    first: ir.Value,
    second: ir.Value,
) -> list[ir.Value]:
    halves = []
    for index, half in enumerate((first, second)):
        columns = _half(op, matrix, index)
        partial = describe(op.MatMul(x, columns), producer(product), half)
        halves.append(describe(op.Add(partial, _half(op, bias, index)), producer(projected), half))
    return halves


def _half(op: Any, value: ir.Value, index: int) -> ir.Value:
    """One half of the columns, a view of the whole."""
    data = weight(value)
    assert data is not None
    array = data.numpy()
    width = array.shape[-1] // 2
    name = f"{value.name}.half{index}"
    half = op.initializer(ir.Tensor(array[..., index * width : (index + 1) * width], name=name), name=name)
    assert isinstance(half, ir.Value)
    return half


class SplitLinear(Rewrite):
    """Linear layer -> Split in two along the last axis becomes two linear layers.

    Left alone: a weight that others read too, since it would be stored twice.
    """

    name = "split_linear"
    backends = frozenset({"onnxruntime"})
    forms = (Form(_pattern, _replacement, _is_valid),)
