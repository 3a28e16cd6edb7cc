"""A denoiser of residual blocks small enough to read: three in a chain, with glue around them or none.

stem      = sample + c              glue
a         = stem + tanh(stem * activated(timestep))
b         = a + tanh(a + text)
c         = b + sin(b)
noise_pred = c * d                  glue

Without glue, ``a`` reads the sample itself and ``c`` is the noise prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx.parser
import onnx_ir as ir
from toy_denoiser import GUIDANCE, SHAPE, SPECS, toy_mask, toy_schedule

from dipgo_compile.graphs.partition import SCOPES, partition
from dipgo_compile.mask import Mask
from dipgo_compile.models import InputSpec
from dipgo_compile.passes.unroll import unroll
from dipgo_compile.program import BlockGraph, Program

BLOCKS = ("a", "b", "c")
BODY = """
  activated = Mul(timestep, w)
  a_scaled = Mul({stem}, activated)
  a_added = Tanh(a_scaled)
  a_out = Add({stem}, a_added)
  b_shifted = Add(a_out, text)
  b_added = Tanh(b_shifted)
  b_out = Add(a_out, b_added)
  c_added = Sin(b_out)
  {last} = Add(b_out, c_added)
"""
TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
toy (float{shape} sample, float[1] timestep, float{shape} text) => (float{shape} noise_pred)
<float w = {{0.001}}, float k = {{0.5}}, float d = {{0.9}}>
{{
{body}
}}
"""


def transformer(glue: bool = True, batch: int = 2) -> ir.Model:
    if glue:
        ends = BODY.format(stem="stem", last="c_out")
        body = f"stem = Add(sample, k)\n{ends}\nnoise_pred = Mul(c_out, d)"
    else:
        body = BODY.format(stem="sample", last="noise_pred")
    text = TEXT.format(shape=[batch, *SHAPE[1:]], body=body)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    scope = "glue"
    for node in model.graph:
        name = node.outputs[0].name or ""
        node.name = f"node_{name}"
        scope = {"a_scaled": "a", "b_shifted": "b", "c_added": "c"}.get(name, scope)
        if glue and name == "noise_pred":
            scope = "head"
        node.metadata_props[SCOPES] = repr(["", scope, name])
    return model


def specs(batch: int = 2) -> tuple[InputSpec, ...]:
    return tuple(
        spec if spec.role == "timestep" else replace(spec, spec=replace(spec.spec, shape=(batch, *SHAPE[1:])))
        for spec in SPECS
    )


def graph_of(model: ir.Model, batch: int = 2) -> BlockGraph:
    return partition(model, BLOCKS, specs(batch))


def residual_mask(*rows: str) -> Mask:
    """Over ``BLOCKS``, in the toy's schedule."""
    keep = tuple(tuple(character == "1" for character in row) for row in rows)
    return replace(toy_mask(*("11" for _ in rows)), blocks=BLOCKS, keep=keep, reuse="residual")


def program_of(model: ir.Model, calls: int) -> Program:
    return unroll(graph_of(model), toy_schedule(calls), GUIDANCE)


class Reference:
    """The denoiser without glue in numpy, with residual reuse as it is defined: one call after the other."""

    def __init__(self, text: np.ndarray) -> None:
        self._text = text
        self._residuals: dict[str, np.ndarray] = {}

    def __call__(self, sample: np.ndarray, timestep: float, row: Sequence[bool]) -> np.ndarray:
        added = {
            "a": lambda x: np.tanh(x * np.float32(0.001 * timestep)),
            "b": lambda x: np.tanh(x + self._text),
            "c": np.sin,
        }
        x = sample
        for block, keep in zip(BLOCKS, row, strict=True):
            if keep:
                self._residuals[block] = added[block](x)
            x = x + self._residuals[block]
        return x
