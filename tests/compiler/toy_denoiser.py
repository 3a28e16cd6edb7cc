"""A denoiser small enough to read: two blocks, a skip connection between them, and glue on all sides.

embedding = timestep * w            glue, shared by both blocks
stem      = sample + c              glue
down      : hidden, skip            from stem, embedding, text (projected: a matrix product)
up        : merged                  from hidden, skip, embedding
noise_pred = merged * d             glue
"""

from __future__ import annotations

from dataclasses import replace

import onnx.parser
import onnx_ir as ir

from dipgo_compile.graphs.partition import SCOPES, partition
from dipgo_compile.mask import Mask, ModelRef, SchedulerRef
from dipgo_compile.models import InputSpec
from dipgo_compile.passes.unroll import Guidance, unroll
from dipgo_compile.program import BlockGraph, Program, TensorSpec
from dipgo_compile.schedules.table import Schedule, ScheduleStep, ScheduleTerm

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
toy (float[2,1,2,2] sample, float[1] timestep, float[2,1,2,2] text) => (float[2,1,2,2] noise_pred)
<float w = {0.001}, float c = {0.5}, float d = {0.9}, float[2,2] k = {0.5, -0.25, 0.75, 1.0}>
{
  stem = Add(sample, c)
  embedding = Mul(timestep, w)
  activated = Sigmoid(embedding)
  scaled = Mul(stem, activated)
  hidden = Tanh(scaled)
  projected = MatMul(text, k)
  skip = Add(hidden, projected)
  shifted = Add(hidden, activated)
  forgotten = Identity(shifted)
  merged = Sub(forgotten, skip)
  noise_pred = Mul(merged, d)
}
"""
# As the exporter writes them: the activation is noted where it was first needed, one node is not at all.
SCOPE = {
    "stem": "stem",
    "embedding": "embedding",
    "activated": "down",
    "scaled": "down",
    "hidden": "down",
    "projected": "down",
    "skip": "down",
    "shifted": "up",
    "forgotten": None,
    "merged": "up",
    "noise_pred": "head",
}
SHAPE = (2, 1, 2, 2)
SPECS = (
    InputSpec("sample", "sample", TensorSpec("float32", SHAPE)),
    InputSpec("timestep", "timestep", TensorSpec("float32", (1,))),
    InputSpec("text", "condition", TensorSpec("float32", SHAPE)),
)
BLOCKS = ("down", "up")
GUIDANCE = Guidance(("uncond", "cond"))
SPLIT = replace(GUIDANCE, split=True)


def toy_model(batch: int = 2) -> ir.Model:
    text = TEXT.replace("float[2,1,2,2]", f"float[{batch},1,2,2]")
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    model = ir.from_proto(proto)
    for node in model.graph:
        name = node.outputs[0].name
        node.name = f"node_{name}"
        scope = SCOPE[name]
        if scope is not None:
            node.metadata_props[SCOPES] = repr(["", scope, name])
    return model


def toy_graph(model: ir.Model | None = None, batch: int = 2) -> BlockGraph:
    specs = (
        spec if spec.role == "timestep" else replace(spec, spec=replace(spec.spec, shape=(batch, *SHAPE[1:])))
        for spec in SPECS
    )
    return partition(model or toy_model(batch), BLOCKS, tuple(specs))


def toy_schedule(calls: int) -> Schedule:
    """Two-step multistep updates: x' = 0.5 x - 0.25 e + 0.0625 e of the call before."""
    steps = []
    for i in range(calls):
        terms = [ScheduleTerm("sample", i, 0.5), ScheduleTerm("noise_pred", i, -0.25)]
        if i:
            terms.append(ScheduleTerm("noise_pred", i - 1, 0.0625))
        steps.append(ScheduleStep(timestep=100.0 * (calls - i), input_scale=1.0, terms=tuple(terms)))
    return Schedule("ToyScheduler", calls, 2.0, 0, tuple(steps))


def toy_mask(*rows: str) -> Mask:
    timesteps = toy_schedule(len(rows)).timesteps
    return Mask(
        ModelRef("toy", "Toy", "0"),
        SchedulerRef("ToyScheduler", {}, len(rows), timesteps),
        BLOCKS,
        tuple(tuple(character == "1" for character in row) for row in rows),
    )


def toy_program(calls: int) -> Program:
    return unroll(toy_graph(), toy_schedule(calls), GUIDANCE)
