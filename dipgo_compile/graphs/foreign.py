"""An ONNX file that somebody else exported, brought into the form that the compiler's own exporter gives.

That form has static shapes, no functions, no constant nodes, one output, a name for every tensor, and module
scopes on every node. ``read`` does what needs no sizes, ``specialise`` the rest: dimensions are fixed, shapes
inferred from them, and what computed shapes at run time becomes a constant.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

from dipgo_compile.errors import GraphError, ModelError
from dipgo_compile.graphs.engines import INLINE_BYTES
from dipgo_compile.graphs.scopes import note_scopes

MIN_OPSET = 17
SHAPE_ELEMENTS = 64  # integers up to so many are shapes, axes and indices: part of the structure, not weights
FOLDED_ELEMENTS = 1 << 16  # constants up to so many elements are computed from others at build time


def read(path: str | Path) -> ir.Model:
    """The graph of an ONNX file, with module scopes where the exporter left any. Weights stay in the file
    until they are used. Raises ModelError.
    """
    try:
        model = ir.load(path)
    except Exception as error:  # what protobuf and the file system raise has no common base
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise ModelError(
            f"cannot read the ONNX file: {reason.splitlines()[0]}", where=path, mend="check the path"
        ) from error
    opset = model.opset_imports.get("", 0)
    if opset < MIN_OPSET:
        raise ModelError(
            f"the file has opset {opset}",
            where=path,
            available=(f"{MIN_OPSET} and newer",),
            mend=f"export it with opset_version={MIN_OPSET}, or convert it with onnx.version_converter",
        )
    _check_external_data(model, path)
    _load_small(model)
    common.InlinePass()(model)
    note_scopes(model.graph)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveInitializersFromInputsPass()(model)
    common.NameFixPass()(model)
    return model


def keep_output(model: ir.Model, output: str) -> tuple[str, ...]:
    """Leave one output, in place, and the inputs that lead to it; the names of the inputs that don't."""
    graph = model.graph
    kept = next(value for value in graph.outputs if value.name == output)
    graph.outputs[:] = [kept]
    common.RemoveUnusedNodesPass()(model)
    unread = [value for value in graph.inputs if not value.uses()]
    graph.inputs[:] = [value for value in graph.inputs if value.uses()]
    return tuple(str(value.name) for value in unread)


def specialise(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """A copy of ``model`` with inputs of these shapes. Weights are shared. Raises GraphError for control
    flow that the shapes don't decide.
    """
    fixed = model.clone()
    graph = fixed.graph
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        shape = shapes[str(value.name)]
        sizes |= _symbols(value.shape, shape)
        value.shape = ir.Shape(shape)
    for node in graph:
        for value in node.outputs:
            noted = None if value.shape is None else value.shape.evaluate(sizes)
            value.shape = noted if noted is not None and noted.is_static() else None
    _infer(fixed)
    common.IdentityEliminationPass()(fixed)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(fixed)
    common.RemoveUnusedNodesPass()(fixed)
    common.NameFixPass()(fixed)
    _refuse_control_flow(graph)
    return fixed


def structure_sha256(model: ir.Model) -> str:
    """Identity of an architecture: operators, how they are connected, and the shapes of weights, but neither
    the values of weights nor the names of nodes and inner tensors.
    """
    graph = model.graph
    ids: dict[ir.Value, str] = {value: f"input {value.name}" for value in graph.inputs}
    for value in graph.initializers.values():
        ids[value] = _identity(value.const_value)
    lines: list[Any] = [[ids[value], *map(str, _type(value))] for value in graph.inputs]
    for position, node in enumerate(graph):
        attributes = sorted((name, _attribute(attr)) for name, attr in node.attributes.items())
        read = [None if value is None else ids[value] for value in node.inputs]
        lines.append([node.domain, node.op_type, node.overload, attributes, read])
        ids |= {value: f"{position}.{index}" for index, value in enumerate(node.outputs)}
    lines.append([ids[value] for value in graph.outputs])
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def _symbols(noted: ir.Shape | None, shape: Sequence[int]) -> dict[str, int]:
    """The sizes of the free dimensions that have a name."""
    pairs = zip(noted or (), shape, strict=False)
    return {str(free.value): size for free, size in pairs if isinstance(free, ir.SymbolicDim)}


def _infer(model: ir.Model) -> None:
    """Infer shapes and fold what becomes constant by turns, until neither finds more: ``Reshape`` to a
    computed shape needs both.
    """
    unknown = -1
    while unknown:
        common.ShapeInferencePass(strict_mode=False)(model)
        fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=FOLDED_ELEMENTS,
            output_size_limit=FOLDED_ELEMENTS,
            should_fold=_folds,
        )
        values = [value for node in model.graph for value in node.outputs]
        before, unknown = unknown, sum(v.shape is None or not v.shape.is_static() for v in values)
        if unknown == before:
            return


def _folds(node: ir.Node) -> bool | None:
    """Whether a node whose inputs are constants becomes one, too; None: as the optimiser sees fit. It leaves
    alone what the older exporter computes the shape of ``Expand`` with.
    """
    if node.op_type != "ConstantOfShape" or node.inputs[0] is None or node.inputs[0].const_value is None:
        return None
    return bool(math.prod(node.inputs[0].const_value.numpy().tolist()) <= FOLDED_ELEMENTS)


def _type(value: ir.Value) -> tuple[object, ...]:
    return (value.dtype, value.shape)


def _identity(tensor: ir.TensorProtocol | None) -> str:
    if tensor is None:
        return "unknown"
    shape = f"{tensor.dtype.name} {tensor.shape}"
    if tensor.dtype.is_integer() and tensor.size <= SHAPE_ELEMENTS:
        return f"{shape} {tensor.numpy().tolist()}"
    return shape


def _attribute(attr: ir.Attr) -> str:
    if attr.type == ir.AttributeType.TENSOR:
        return _identity(attr.as_tensor())
    if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return attr.type.name
    return repr(attr.value)


def _check_external_data(model: ir.Model, path: str | Path) -> None:
    tensors = (value.const_value for value in model.graph.initializers.values())
    needed = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    missing = sorted(str(file) for file in needed if not file.is_file())
    if missing:
        raise ModelError(
            f"the file's weights are missing: {', '.join(missing)}",
            where=path,
            mend="keep the external data beside the ONNX file, under the name it was exported with",
        )


def _load_small(model: ir.Model) -> None:
    """Engines hold small weights themselves, wherever the file keeps them."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes < INLINE_BYTES:
            (value.const_value,) = ir.external_data.convert_tensors_from_external([tensor])


def _refuse_control_flow(graph: Iterable[ir.Node]) -> None:
    for node in graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise GraphError(
                f"the node {node.name!r} is a {node.op_type}, which depends on more than shapes",
                mend="export the denoiser without control flow that depends on values",
            )
