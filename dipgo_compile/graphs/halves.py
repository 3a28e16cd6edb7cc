"""share_halves: what both halves of a guided batch have in common is computed once.

Classifier-free guidance sends the same latents twice, and the halves differ only from where a condition is
first read. Before that lie a residual block and the first self-attention in Stable Diffusion 1.x and 2.x, the
first self-attention in PixArt. Here the denoiser reads one half of the batch, computes one half of what it
can, and repeats it where both are needed, along the batch, which is the leading axis.

Nodes are shared if they are known to treat each sample alone (``_treats_samples_alone``); from others on,
both halves are computed. What depends on the timestep alone may have a row for each sample, too: half of the
rows is read. Nothing is shared where that wouldn't pay: in Stable Diffusion XL the prompt is in the time
embedding, so only ``conv_in`` could be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from dipgo_compile.graphs.partition import SCOPES
from dipgo_compile.macs.graph import node_macs
from dipgo_compile.models import InputSpec
from dipgo_compile.plan import PassReport

NAME = "share_halves"
MACS_PER_ELEMENT = 100  # multiply-accumulates in the time in which an element is repeated, at least

_ELEMENTWISE = frozenset(
    {
        "Add",
        "Cast",
        "Div",
        "Erf",
        "Gelu",
        "HardSigmoid",
        "Identity",
        "LeakyRelu",
        "Mul",
        "Pow",
        "Relu",
        "Sigmoid",
        "Sqrt",
        "Sub",
        "Swish",
        "Tanh",
    }
)
_OVER_CHANNELS = frozenset({"Conv", "GroupNormalization", "InstanceNormalization"})
_OVER_LAST = frozenset({"LayerNormalization", "RMSNormalization", "Softmax"})
_VIEWS = frozenset({"Identity", "Reshape", "Transpose"})


def share_halves(model: ir.Model, inputs: Sequence[InputSpec]) -> PassReport:
    """Change ``model``, in place, to read one half of a guided batch and compute once what is the same in
    both. ``inputs`` are the denoiser's.

    Expects a graph with static shapes for both halves. Its input for the sample has half the batch after it,
    if anything was shared.
    """
    shared = _find(model.graph, inputs)
    readers = shared.readers()
    saved = sum(node_macs(model.graph, attention=True).get(node, 0) for node in shared.nodes) // 2
    repeated = sum(math.prod(_dims(value)) for value, _ in readers)
    if saved <= MACS_PER_ELEMENT * repeated:
        return PassReport(NAME, False, "the halves of the guided batch have too little in common")
    _Halver(model.graph, shared).halve(readers)
    summary = (
        f"{len(shared.nodes)} nodes compute half of the guided batch, {saved / 1e9:.3g} GMACs less a call"
    )
    return PassReport(NAME, True, summary)


@dataclass(frozen=True)
class _Shared:
    """``nodes``, in the graph's order, need half of the ``batch``; ``values`` are what they compute, and the
    sample.
    """

    batch: int = 0
    nodes: dict[ir.Node, None] = field(default_factory=dict)
    values: dict[ir.Value, None] = field(default_factory=dict)

    def readers(self) -> list[tuple[ir.Value, ir.Node]]:
        """The values that nodes read which need both halves, and those nodes."""
        uses = [(value, use.node) for value in self.values for use in value.uses()]
        return list(dict.fromkeys((value, node) for value, node in uses if node not in self.nodes))


def _find(graph: ir.Graph, inputs: Sequence[InputSpec]) -> _Shared:
    attributes = (attribute for node in graph for attribute in node.attributes.values())
    if any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in attributes):
        return _Shared()  # control flow reads what it likes of the graph around it
    roles = {spec.name: spec.role for spec in inputs}
    (sample,) = (value for value in graph.inputs if roles.get(str(value.name)) == "sample")
    batch = _dims(sample)[0]
    apart = {value for value in graph.inputs if roles.get(str(value.name)) == "condition"}
    values: dict[ir.Value, None] = {sample: None}
    nodes: dict[ir.Node, None] = {}
    for node in graph:
        read = {value for value in node.inputs if value is not None}
        if read.isdisjoint(apart) and _treats_samples_alone(node, values.keys(), batch):
            nodes[node] = None
            values |= dict.fromkeys(node.outputs)
        elif not read.isdisjoint(apart) or not read.isdisjoint(values):
            apart.update(node.outputs)
    if any(value in values for value in graph.outputs):  # no condition reaches it
        return _Shared()
    for node in reversed(list(nodes)):  # a view that only nodes of both halves read is theirs
        if node.op_type in _VIEWS and not any(use.node in nodes for use in node.outputs[0].uses()):
            del nodes[node], values[node.outputs[0]]
    return _Shared(batch, nodes, values)


def _treats_samples_alone(node: ir.Node, shared: Set[ir.Value], batch: int) -> bool:
    """Whether half of the node's result follows from half of what is ``shared`` in the way in which all of it
    follows from all of them.
    """
    given = [value for value in node.inputs if value is not None]
    if shared.isdisjoint(given) or node.domain or _dims(node.outputs[0])[:1] != (batch,):
        return False
    kind, rank = node.op_type, len(_dims(node.outputs[0]))
    ranks = [len(_dims(value)) for value in given]
    if kind in _ELEMENTWISE:
        rows = [
            value for value, axes in zip(given, ranks, strict=True) if _is_batch(value, axes, rank, batch)
        ]
        return shared.isdisjoint(set(given) - set(rows)) and not any(map(ir.Value.is_initializer, rows))
    if kind == "Attention" or (kind == "MatMul" and given[1] in shared):
        return shared >= set(given) and len(given) == (3 if kind == "Attention" else 2) and min(ranks) > 2
    if given[0] not in shared or not shared.isdisjoint(given[1:]):
        return False
    if kind in _OVER_LAST:
        return rank > 1 and _attribute(node, "axis", -1) in (-1, rank - 1)
    if kind == "MatMul":
        return rank > 1 and ranks[1] == 2
    if kind == "Gemm":
        return not _attribute(node, "transA", 0) and ranks[2:] in ([], [0], [1])
    if kind == "Transpose":
        return bool(_attribute(node, "perm", (None,))[0] == 0)
    if kind == "Reshape":
        return _sizes(given[1])[:1] in ((0,), (batch,))
    return kind in _OVER_CHANNELS


def _is_batch(value: ir.Value, axes: int, rank: int, batch: int) -> bool:
    """Whether what is broadcast to ``rank`` axes has a row for each sample."""
    return axes == rank and _dims(value)[0] == batch


class _Halver:
    def __init__(self, graph: ir.Graph, shared: _Shared) -> None:
        self._graph, self._shared, self._half = graph, shared, shared.batch // 2
        self._made: dict[str, ir.Value] = {}

    def halve(self, readers: Sequence[tuple[ir.Value, ir.Node]]) -> None:
        for value, reader in readers:
            name = f"{value.name}.both.{reader.outputs[0].name}"
            both = self._insert("Concat", [value, value], name, value, _dims(value), reader, axis=0)
            for index, read in enumerate(reader.inputs):
                if read is value:
                    reader.replace_input_with(index, both)
        for node in self._shared.nodes:
            for index, read in enumerate(node.inputs):
                if read is not None and read not in self._shared.values:
                    node.replace_input_with(index, self._of_half(read, node, index))
        for value in self._shared.values:
            value.shape = ir.Shape((self._half, *_dims(value)[1:]))

    def _of_half(self, value: ir.Value, node: ir.Node, index: int) -> ir.Value:
        """What a shared node reads of something that isn't shared: half of its rows if it has one for each
        sample, or a shape for half of the batch.
        """
        dims, rank = _dims(value), len(_dims(node.outputs[0]))
        if node.op_type == "Reshape" and index == 1:
            sizes = (min(self._half, _sizes(value)[0]), *_sizes(value)[1:])  # 0: as many as there are
            return self._constant(f"{NAME}.{'x'.join(map(str, sizes))}", sizes)
        if node.op_type not in _ELEMENTWISE or not _is_batch(value, len(dims), rank, self._shared.batch):
            return value
        begin, end = self._constant(f"{NAME}.begin", (0,)), self._constant(f"{NAME}.end", (self._half,))
        rows = (self._half, *dims[1:])
        return self._insert("Slice", [value, begin, end, begin], f"{value.name}.half", value, rows, node)

    def _insert(
        self,
        kind: str,
        inputs: Sequence[ir.Value],
        name: str,
        like: ir.Value,
        shape: Sequence[int],
        reader: ir.Node,
        **attributes: int,
    ) -> ir.Value:
        """The result of a new node before ``reader``, which it belongs to; one of a name is enough."""
        if name not in self._made:
            result = ir.Value(name=name, shape=ir.Shape(shape), type=like.type)
            integers = [ir.AttrInt64(key, number) for key, number in attributes.items()]
            node = ir.Node("", kind, inputs, integers, outputs=[result], name=f"node_{name}")
            node.metadata_props.update(_place(reader))
            self._graph.insert_before(reader, node)
            self._made[name] = result
        return self._made[name]

    def _constant(self, name: str, numbers: Sequence[int]) -> ir.Value:
        if name not in self._made:
            data = ir.tensor(np.array(numbers, dtype=np.int64), name=name)
            self._made[name] = ir.Value(name=name, const_value=data)
            self._graph.register_initializer(self._made[name])
        return self._made[name]


def _place(reader: ir.Node) -> dict[str, str]:
    """The module scopes of a node, as metadata. The exporter forgets them here and there: then they are those
    of a node whose result it reads.
    """
    nodes = (reader, *reader.predecessors())
    noted = next((node.metadata_props[SCOPES] for node in nodes if SCOPES in node.metadata_props), None)
    return {} if noted is None else {SCOPES: noted}


def _dims(value: ir.Value | None) -> tuple[int, ...]:
    """The static shape; none where it isn't known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return ()
    return tuple(value.shape.numpy())


def _sizes(shape: ir.Value | None) -> tuple[int, ...]:
    """What a Reshape is asked for, where that is a constant."""
    known = None if shape is None else ir.convenience.get_const_tensor(shape)
    return () if known is None else tuple(map(int, known.numpy()))


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default
