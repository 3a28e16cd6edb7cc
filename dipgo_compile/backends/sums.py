"""Sums of tensors as ONNX graphs: what a device needs to add up residuals without sending them to the host.

A graph is a chain of ``Add`` and ``Sub`` in the order of the terms, as a plan asks for it. It is written byte
by byte, because a machine that runs bundles needn't have the package ``onnx``: these few fields of onnx.proto
are all that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dipgo_compile.program import TensorSpec

OUTPUT = "sum"
ELEMENT_TYPES = {"float32": 1, "float16": 10, "float64": 11}
IR_VERSION, OPSET = 8, 14  # those that brought nothing newer than Add and Sub


def sum_inputs(count: int) -> tuple[str, ...]:
    """The names of the terms."""
    return tuple(f"term{index}" for index in range(count))


def sum_model(signs: Sequence[float], spec: TensorSpec) -> bytes:
    """A model that computes ``sum``: two or more tensors like ``spec``, each times 1 or -1."""
    names = sum_inputs(len(signs))
    nodes: list[bytes] = []
    total = names[0]
    if signs[0] < 0:
        nodes.append(_node("Neg", [total], "negated" if len(signs) > 1 else OUTPUT))
        total = "negated"
    for index, sign in enumerate(signs[1:], 1):
        result = OUTPUT if index == len(signs) - 1 else f"total{index}"
        nodes.append(_node("Add" if sign > 0 else "Sub", [total, names[index]], result))
        total = result
    tensors = _field(1, _field(1, ELEMENT_TYPES[spec.dtype]) + _field(2, b"".join(map(_dim, spec.shape))))
    values = {name: _field(1, name.encode()) + _field(2, tensors) for name in (*names, OUTPUT)}
    graph = [_field(1, node) for node in nodes]
    graph += [_field(2, b"sum"), *(_field(11, values[name]) for name in names), _field(12, values[OUTPUT])]
    return _field(1, IR_VERSION) + _field(8, _field(2, OPSET)) + _field(7, b"".join(graph))


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(
        (*(_field(1, name.encode()) for name in inputs), _field(2, output.encode()), _field(4, kind.encode()))
    )


def _dim(size: int) -> bytes:
    return _field(1, _field(1, size))


def _field(number: int, content: int | bytes) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
