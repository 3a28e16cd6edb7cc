"""modulated_norm: layer normalisation scales and shifts by what a sample decides as it normalises.

An adaptive layer norm (adaLN of DiT and PixArt-alpha) multiplies what it normalised by ``1 + scale`` and adds
``shift``, one row of each for every sample. The kernel scales and shifts, too, by one row for all that it
normalises: given one sample after the other, it writes a tensor once instead of three times. ``Scan`` hands
its body views of the samples and lets it write results in place, so nothing is copied.

A layer norm of 2 x 256 tokens of 1152 channels (DiT-XL/2 at 256x256), 2 cores: 0.54 ms as three operators,
0.32 in a ``Scan``, and 0.30 if it neither scaled nor shifted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from dipgo_compile.rewrites.base import Form, Rewrite, constant, describe, dims, producer, weight

KEPT = ("epsilon", "stash_type")  # attributes that stay what they were


def _pattern(op: Any, x: Any, scale: Any, shift: Any) -> Any:
    normalized = op.LayerNormalization(x, _allow_other_inputs=True, _outputs=["normalized"])
    return op.Add(op.Mul(normalized, scale), shift, _outputs=["modulated"])


def _is_valid(
    context: Any, x: ir.Value, scale: ir.Value, shift: ir.Value, normalized: ir.Value, modulated: ir.Value
) -> bool:
    shape = dims(x) or ()
    rows = (*shape[:1], *(1 for _ in shape[1:-1]), *shape[-1:])
    return len(shape) > 2 and dims(scale) == dims(shift) == rows and _is_plain(producer(normalized), x)


def _is_plain(norm: ir.Node, x: ir.Value) -> bool:
    """Whether a layer norm normalises the last axis, and does nothing else."""
    _, scale, bias = (*norm.inputs, None)[:3]
    return (
        norm.attributes.get_int("axis", -1) in (-1, len(dims(x) or ()) - 1)
        and _is_all(scale, 1.0)
        and (bias is None or _is_all(bias, 0.0))
    )


def _is_all(value: ir.Value | None, number: float) -> bool:
    data = None if value is None else weight(value)
    return data is not None and bool((data.numpy() == number).all())


def _replacement(
    op: Any, x: ir.Value, scale: ir.Value, shift: ir.Value, normalized: ir.Value, modulated: ir.Value
) -> ir.Value:
    origin, shape = producer(modulated), dims(x) or ()
    sizes = (shape[0], shape[-1])
    to = constant(op, origin, f"modulated_norm.{'x'.join(map(str, sizes))}", np.array(sizes, dtype=np.int64))
    rows = (describe(op.Reshape(value, to), origin, value, sizes) for value in (scale, shift))
    scanned = op.Scan(x, *rows, body=_body(producer(normalized), x, modulated), num_scan_inputs=3)
    return describe(scanned, origin, modulated)


def _body(norm: ir.Node, x: ir.Value, modulated: ir.Value) -> ir.Graph:
    """The layer norm of one sample, with its rows."""
    shape = (dims(x) or ())[1:]
    given, scale, shift, result = (
        ir.Value(name=f"{modulated.name}.{part}", type=x.type, shape=ir.Shape(sizes))
        for part, sizes in (("x", shape), ("scale", shape[-1:]), ("shift", shape[-1:]), ("y", shape))
    )
    inputs = [given, scale, shift]
    same = [norm.attributes[name] for name in KEPT if name in norm.attributes]
    attributes = [ir.AttrInt64("axis", -1), *same]
    node = ir.Node("", "LayerNormalization", inputs, attributes, outputs=[result], name=norm.name)
    return ir.Graph(inputs, [result], nodes=[node], name=f"{modulated.name}.sample")


class ModulatedNorm(Rewrite):
    """LayerNormalization -> Mul -> Add, where factor and term are a row for each sample, becomes a ``Scan``
    of layer norms over the samples.

    Left alone: a layer norm with weights of its own, or one whose result others read too.
    """

    name = "modulated_norm"
    backends = frozenset({"onnxruntime"})
    cpu_only = True
    forms = (Form(_pattern, _replacement, _is_valid),)
