"""A graph that computes in float16, between inputs and outputs that keep their types.

Latents, conditions and timesteps come in as they are and the prediction goes out in float32, so guidance and
scheduler stay in float32; what blocks hand to one another is float16. Weights are converted as they are
written: nothing holds them twice.

Three kinds of nodes stay in float32. What depends on the timestep alone is computed once, at build time, and
is rounded once. Sine and cosine of what does not depend on the sample, with all that leads to them, embed
times and sizes: 999 radians are known to half a radian in float16. And operators of which ONNX Runtime has no
float16 kernel, by the list of its own converter. Normalisations need no exception: they gather statistics in
float32 (``stash_type``).

That converter (``onnxruntime.transformers.float16``, after ``onnxconverter_common``) works on a ModelProto,
which cannot hold 2 GB and would be a second copy of the weights, gives no module scopes to the casts it adds,
and embeds times in float16.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from dipgo_compile.backends.registry import FLOAT16
from dipgo_compile.errors import GraphError
from dipgo_compile.graphs.early import early_tensors
from dipgo_compile.graphs.partition import SCOPES, varying_values
from dipgo_compile.models import InputSpec
from dipgo_compile.plan import PassReport

NAME = "float16"
HALF, FULL = ir.DataType.FLOAT16, ir.DataType.FLOAT
ANGLES = frozenset({"Cos", "Sin"})
NO_KERNEL = frozenset(
    {
        "CumSum",
        "Max",
        "Min",
        "NonMaxSuppression",
        "RandomUniformLike",
        "Range",
        "RoiAlign",
        "TopK",
        "Upsample",
    }
)
MAKES_FLOAT32 = frozenset({"ConstantOfShape", "EyeLike", "RandomNormal", "RandomNormalLike", "RandomUniform"})
"""Their type is an attribute, or a default: a cast behind them is simpler."""
FULL_INPUTS = {"Resize": (2,)}  # scales are float32 by the operator's definition
SMALLEST = np.float16(6e-8)


def in_precision(model: ir.Model, precision: str, inputs: Sequence[InputSpec]) -> tuple[PassReport, ...]:
    """Change ``model`` in place to compute in ``precision``, where that is the graph's affair: other than
    float16, precisions are how a backend computes it.
    """
    if precision != FLOAT16:
        return ()
    name_of = {spec.role: spec.name for spec in inputs}
    return (to_float16(model, name_of["sample"], name_of["timestep"]),)


def to_float16(model: ir.Model, sample: str, timestep: str) -> PassReport:
    """Change ``model`` in place; ``sample`` and ``timestep`` are the names of those inputs. Raises GraphError
    for a graph with control flow.
    """
    for node in model.graph:
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                raise GraphError(
                    f"{node.op_type} holds a graph of its own, which is not converted to float16",
                    where=node.name,
                    mend="build with --precision fp32, or export the denoiser without control flow",
                )
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return _Converter(model, _kept_nodes(model.graph, sample, timestep)).convert()


class _Converter:
    def __init__(self, model: ir.Model, kept: Set[ir.Node]) -> None:
        """``kept``: the nodes that stay in float32."""
        self._model, self._graph, self._full = model, model.graph, kept
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert(self) -> PassReport:
        nodes = tuple(self._graph)
        for node in nodes:
            if node not in self._full:
                _halve_outputs(node)
        for node in nodes:
            self._fit_inputs(node)
        self._restore_outputs()
        RemoveUnusedNodesPass()(self._model)  # weights that were replaced
        casts = len(self._made)
        kept = sum(any(value.dtype == FULL for value in node.outputs) for node in nodes)
        return PassReport(
            NAME, True, f"{kept} of {len(nodes)} nodes stay in float32, {casts} tensors converted"
        )

    def _fit_inputs(self, node: ir.Node) -> None:
        if node.op_type == "Cast":  # takes anything
            return
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype not in (HALF, FULL):
                continue
            full = node in self._full or index in FULL_INPUTS.get(node.op_type, ())
            wanted = FULL if full else HALF
            if value.dtype != wanted:
                node.replace_input_with(index, self._as(value, wanted))

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another type, made once: a weight converted, anything else cast."""
        made = self._made.get((value, dtype))
        if made is None:
            weight = value.const_value if value.is_initializer() and not value.is_graph_input() else None
            made = self._cast(value, dtype) if weight is None else self._halved(value, weight)
            self._made[value, dtype] = made
        return made

    def _halved(self, value: ir.Value, weight: ir.TensorProtocol) -> ir.Value:
        name, shape = f"{value.name}.fp16", ir.Shape(weight.shape.numpy())
        lazy = ir.LazyTensor(partial(_half_tensor, weight, name), HALF, shape, name=name)
        made = ir.Value(name=name, type=ir.TensorType(HALF), shape=shape, const_value=lazy)
        self._graph.register_initializer(made)
        return made

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Beside the node that made the value, and in its module."""
        name = f"{value.name}.{'fp16' if dtype == HALF else 'fp32'}"
        node = ir.node("Cast", [value], {"to": dtype}, name=f"node_{name}")
        cast = node.outputs[0]
        cast.name, cast.type, cast.shape = name, ir.TensorType(dtype), value.shape
        maker = value.producer()
        if maker is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            if SCOPES in maker.metadata_props:
                node.metadata_props[SCOPES] = maker.metadata_props[SCOPES]
            self._graph.insert_after(maker, node)
        return cast

    def _restore_outputs(self) -> None:
        for index, value in enumerate(self._graph.outputs):
            if value.dtype != HALF:
                continue
            name, value.name = value.name, f"{value.name}.fp16"
            cast = self._cast(value, FULL)
            cast.name = name
            self._graph.outputs[index] = cast


def _kept_nodes(graph: ir.Graph, sample: str, timestep: str) -> set[ir.Node]:
    """Those that stay in float32."""
    early, varying = early_tensors(graph, timestep), varying_values(graph, sample)
    kept: set[ir.Node] = set()
    angles: set[ir.Node] = set()
    for node in reversed(graph):
        read_by = {use.node for value in node.outputs for use in value.uses()}
        if varying.isdisjoint(node.outputs) and (node.op_type in ANGLES or not angles.isdisjoint(read_by)):
            angles.add(node)
        if node.op_type in NO_KERNEL | MAKES_FLOAT32 or all(value.name in early for value in node.outputs):
            kept.add(node)
    return kept | angles


def _halve_outputs(node: ir.Node) -> None:
    if node.op_type == "Cast" and node.attributes["to"].as_int() == FULL:
        node.attributes["to"] = ir.AttrInt64("to", HALF)
    for value in node.outputs:
        if value.dtype == FULL:
            value.type = ir.TensorType(HALF)


def _half_tensor(weight: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    return ir.Tensor(half(weight.numpy()), name=name)


def half(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Rounded to float16, but for what would change its kind: finite numbers stay finite, and numbers that
    are not zero (an epsilon to divide by) stay so.
    """
    limit = np.finfo(np.float16).max
    finite = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
    rounded = finite.astype(np.float16)
    vanished = (rounded == 0) & (array != 0)
    return np.where(vanished, np.copysign(SMALLEST, array), rounded).astype(np.float16)
