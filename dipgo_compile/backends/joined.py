"""Engines side by side in one graph, so that ONNX Runtime optimises and packs a weight once for all of them.

An engine for each of many patterns uses nearly every weight, and opening them one after the other does the
same work for the same weights again: 23 GB for Stable Diffusion's 3.4 with eight patterns. Joined, their
graphs have no value in common, so each is optimised as it would be alone, but the weights are the same
initializers. What comes out is split again.

The work is bounded by the largest engine: engines are joined only as long as their weights together take no
more than its, which makes one session of a pattern of all blocks and every engine that overlaps it. ONNX
Runtime's optimiser takes time by the square of the nodes: 1 s for 7,000, 3 s for 15,000, 17 s for 30,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import onnx

MAX_NODES = 10_000  # of a joined graph

Place = tuple[object, ...]
"""Where an external tensor lies, and what it is there."""


@dataclass
class _Group:
    kind: object
    files: list[str] = field(default_factory=list)
    weights: dict[Place, int] = field(default_factory=dict)
    nodes: int = 0


def read(file: Path) -> onnx.ModelProto | None:
    """An engine without its external weights; None for a file that is damaged, of which ONNX Runtime has more
    to say.
    """
    try:
        model = onnx.load(file, load_external_data=False)
        _weights(model)
    except Exception:  # no ONNX, or a tensor of an unknown type: what they raise has no common base
        return None
    return model


def group(models: Mapping[str, onnx.ModelProto]) -> list[list[str]]:
    """Which of these engines, by their files, to join: those with most weights first, and in every group no
    more bytes of weights than the largest engine has.
    """
    weights = {file: _weights(model) for file, model in models.items()}
    bound = max((sum(found.values()) for found in weights.values()), default=0)
    groups: list[_Group] = []
    for file in sorted(models, key=lambda file: -sum(weights[file].values())):
        model, kind = models[file], _kind(file, models[file])
        for into in groups:
            together = into.weights | weights[file]
            nodes = into.nodes + len(model.graph.node)
            if into.kind == kind and sum(together.values()) <= bound and nodes <= MAX_NODES:
                break
        else:
            into, together, nodes = _Group(kind), weights[file], len(model.graph.node)
            groups.append(into)
        into.files.append(file)
        into.weights, into.nodes = together, nodes
    return [into.files for into in groups]


def join(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Graphs of one kind, as ``group`` puts them together, as one. It takes their parts and leaves them
    changed.
    """
    joined = onnx.ModelProto(ir_version=models[0].ir_version, opset_import=models[0].opset_import)
    joined.graph.name = "joined"
    known: dict[Place, str] = {}
    for number, model in enumerate(models):
        graph, names, new = model.graph, dict[str, str](), []
        for tensor in graph.initializer:
            place = _place(tensor)
            if place is None or place not in known:
                new.append(tensor)
            if place is not None:
                names[tensor.name] = known.setdefault(place, f"weight{len(known)}/{tensor.name}")
        _rename(graph, names, _prefix(number))
        joined.graph.input.extend(graph.input)
        joined.graph.output.extend(graph.output)
        joined.graph.value_info.extend(graph.value_info)
        joined.graph.initializer.extend(new)
        joined.graph.node.extend(graph.node)
    return joined


def split(joined: onnx.ModelProto, count: int) -> Iterator[onnx.ModelProto]:
    """The graphs again, in their order, with the inputs and outputs they had. Weights lie where they do in
    ``joined``; each graph has those that it reads.
    """
    graph = joined.graph
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    infos = {info.name: info for info in graph.value_info}
    for number in range(count):
        prefix = _prefix(number)
        inputs = [value for value in graph.input if value.name.startswith(prefix)]
        outputs = [value for value in graph.output if value.name.startswith(prefix)]
        nodes, read = _needed(graph, makers, [value.name for value in outputs])
        part = onnx.ModelProto(ir_version=joined.ir_version, opset_import=joined.opset_import)
        part.graph.name = graph.name
        part.graph.input.extend(inputs)
        part.graph.output.extend(outputs)
        part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
        part.graph.node.extend(graph.node[index] for index in nodes)
        part.graph.value_info.extend(infos[name] for name in sorted(read & infos.keys()))
        ends = {value.name: value.name.removeprefix(prefix) for value in (*inputs, *outputs)}
        _rename(part.graph, ends)
        yield part


def _needed(
    graph: onnx.GraphProto, makers: Mapping[str, int], outputs: Sequence[str]
) -> tuple[list[int], set[str]]:
    """The nodes on the way to the outputs, in the graph's order, and all that is read on it."""
    read, pending, nodes = set(outputs), list(outputs), set[int]()
    while pending:
        index = makers.get(pending.pop())
        if index is None or index in nodes:
            continue
        nodes.add(index)
        new = set(_names_in(graph.node[index])) - read
        read |= new
        pending += new
    return sorted(nodes), read


def _names_in(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, and what the graphs in its attributes do."""
    yield from node.input
    for graph in _graphs_in(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _names_in(inner)


def _graphs_in(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs


def _rename(graph: onnx.GraphProto, names: Mapping[str, str], prefix: str = "") -> None:
    """Values by ``names``, the others and all nodes by a prefix, in place."""

    def renamed(name: str) -> str:
        return names.get(name, prefix + name) if name else name  # an input left out has no name

    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed(value.name)
    for node in graph.node:
        node.name = prefix + node.name if node.name else ""
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        for inner in _graphs_in(node):
            _rename(inner, names, prefix)


def _prefix(number: int) -> str:
    return f"engine{number}/"


def _kind(file: str, model: onnx.ModelProto) -> object:
    """Engines of one kind can be joined; one with functions of its own is of no other's."""
    opsets = sorted((opset.domain, opset.version) for opset in model.opset_import)
    return model.ir_version, opsets, file if model.functions else ""


def _weights(model: onnx.ModelProto) -> dict[Place, int]:
    """Bytes of the external tensors, by their places."""
    sizes = {}
    for tensor in model.graph.initializer:
        place = _place(tensor)
        if place is not None:
            sizes[place] = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * prod(tensor.dims)
    return sizes


def _place(tensor: onnx.TensorProto) -> Place | None:
    """None for a tensor inside the ONNX file."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    entries = sorted((entry.key, entry.value) for entry in tensor.external_data)
    return tensor.data_type, tuple(tensor.dims), tuple(entries)
