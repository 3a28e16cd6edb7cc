"""Cutting one ONNX graph into blocks by module scope.

A node belongs to the block whose scope is among the module scopes that the exporter wrote on it. What belongs
to none is glue: the time embedding, ``conv_in`` and ``conv_out``, skip concatenations. Glue is grouped so
that the blocks stay in topological order: a glue node's level is the last block it depends on, and each
connected piece of a level is one glue block. Small pieces matter, because a piece whose inputs did not change
need not run again.
"""

from __future__ import annotations

import ast
import difflib
import graphlib
from collections.abc import Collection, Iterable, Mapping, Sequence, Set

import onnx_ir as ir

from dipgo_compile.errors import GraphError
from dipgo_compile.models import InputSpec
from dipgo_compile.program import Block, BlockGraph, TensorSpec

SHAPES = ("Shape", "Size")  # graphs with free dimensions compute sizes: they are the same at every call
SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's metadata key: a Python list of scopes, outermost first


def partition(model: ir.Model, scopes: Collection[str], inputs: Sequence[InputSpec]) -> BlockGraph:
    """Cut ``model`` into the blocks named by ``scopes`` and the glue between them.

    Raises GraphError when a scope has no nodes, when scopes lie inside one another, or when they can't be
    ordered.
    """
    graph = model.graph
    roles: dict[str, list[str]] = {"sample": [], "timestep": [], "condition": []}
    for spec in inputs:
        roles[spec.role].append(spec.name)
    varying = varying_values(graph, roles["sample"][0])
    owner = _owners(graph, set(scopes), varying)
    order = _block_order(graph, owner)
    pieces = _pieces(graph, owner, order)
    block_of = {node: index for index, (_, nodes, _) in enumerate(pieces) for node in nodes}
    names = _Names(scopes)
    blocks = tuple(_block(names, block_of, varying, nodes, scope) for _, nodes, scope in pieces)
    return BlockGraph(
        blocks=blocks,
        tensors=_tensor_specs(graph, blocks),
        sample=roles["sample"][0],
        timestep=roles["timestep"][0],
        conditions=tuple(roles["condition"]),
        output=_name(graph.outputs[0]),
    )


def node_scopes(node: ir.Node) -> list[str]:
    """The module scopes of a node, outermost first; empty when the exporter knew none."""
    scopes: list[str] = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    return scopes


def varying_values(graph: ir.Graph, sample: str) -> set[ir.Value]:
    """What depends on the sample, its shape apart."""
    varying = {value for value in graph.inputs if value.name == sample}
    for node in graph:
        if node.op_type not in SHAPES and not varying.isdisjoint(
            value for value in node.inputs if value is not None
        ):
            varying.update(node.outputs)
    return varying


def _owners(graph: ir.Graph, scopes: set[str], varying: Set[ir.Value]) -> dict[ir.Node, str | None]:
    """The block of each node, by scope; None for glue."""
    owner: dict[ir.Node, str | None] = {}
    for node in graph:
        named = node_scopes(node)
        owner[node] = _scope_among(named, scopes) if named else _surrounding(node, owner, scopes)
    missing = scopes - set(owner.values())
    if missing:
        known = sorted({scope for node in graph for scope in node_scopes(node) if scope})
        close = [match for name in sorted(missing) for match in difflib.get_close_matches(name, known, 3)]
        raise GraphError(
            f"the graph has no nodes in the scope {', '.join(sorted(missing))}",
            available=close or known[:20],
            mend="name module scopes of the denoiser",
        )
    for node in shared_invariants(graph, owner, varying):
        owner[node] = None
    return owner


def _scope_among(named: Sequence[str], scopes: Collection[str]) -> str | None:
    owners = [scope for scope in named if scope in scopes]
    if len(owners) > 1:
        raise GraphError(
            f"blocks may not lie inside one another: {owners[1]!r} is inside {owners[0]!r}",
            mend="name scopes of one granularity, or of separate parts of the denoiser",
        )
    return owners[0] if owners else None


def _surrounding(node: ir.Node, owner: Mapping[ir.Node, str | None], scopes: Collection[str]) -> str | None:
    """The exporter forgets the scope of a node here and there (``Split`` of a GEGLU): it is its
    neighbours'.
    """
    above = {owner[parent] for parent in _parents(node)}
    below = {_scope_among(node_scopes(use.node), scopes) for value in node.outputs for use in value.uses()}
    return next(iter(above)) if len(above) == 1 and above == below else None


def shared_invariants(
    graph: ir.Graph, owner: Mapping[ir.Node, str | None], varying: Set[ir.Value]
) -> set[ir.Node]:
    """Nodes in a block that do not depend on the sample, and whose result another block reads.

    The exporter computes an expression that several blocks share (SiLU of the time embedding) once, in the
    first of them. Were it part of that block, reusing the block would hand the others an outdated value.
    """
    shared: set[ir.Node] = set()
    for node in reversed(graph):
        users = [use.node for value in node.outputs for use in value.uses()]
        invariant = varying.isdisjoint(node.outputs)
        if invariant and any(user in shared or owner[user] != owner[node] for user in users):
            shared.add(node)
    return shared


def _block_order(graph: ir.Graph, owner: Mapping[ir.Node, str | None]) -> dict[str, int]:
    """Positions 1, 2, ... of the scopes in a topological order of the graph with each scope contracted to a
    point.
    """
    before: dict[str, set[str]] = {}  # scope -> scopes it depends on
    reach: dict[ir.Node, frozenset[str]] = {}  # glue node -> the nearest scopes above it
    for node in graph:
        above: set[str] = set()
        for parent in _parents(node):
            scope = owner[parent]
            above |= reach[parent] if scope is None else {scope}
        scope = owner[node]
        if scope is None:
            reach[node] = frozenset(above)
        else:
            before.setdefault(scope, set()).update(above - {scope})
    try:
        return {scope: 1 + i for i, scope in enumerate(graphlib.TopologicalSorter(before).static_order())}
    except graphlib.CycleError as error:
        raise GraphError(
            f"these blocks need each other's results: {' -> '.join(error.args[1])}",
            mend="choose blocks that are computed one after the other",
        ) from error


def _pieces(
    graph: ir.Graph, owner: Mapping[ir.Node, str | None], order: Mapping[str, int]
) -> list[tuple[int, list[ir.Node], str | None]]:
    """(level, nodes, scope) for each block and each connected piece of glue, in topological order."""
    level: dict[ir.Node, int] = {}
    root: dict[ir.Node, ir.Node] = {}

    def find(node: ir.Node) -> ir.Node:
        while root[node] is not node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    first: dict[str, ir.Node] = {}
    for node in graph:
        scope = owner[node]
        parents = _parents(node)
        if scope is not None:
            level[node] = order[scope]
            root[node] = first.setdefault(scope, node)
            continue
        level[node] = max((level[parent] for parent in parents), default=0)
        root[node] = node
        for parent in parents:
            if owner[parent] is None and level[parent] == level[node]:
                root[find(parent)] = find(node)
    pieces: dict[ir.Node, list[ir.Node]] = {}
    for node in graph:
        pieces.setdefault(find(node), []).append(node)
    found = [(level[nodes[0]], nodes, owner[nodes[0]]) for nodes in pieces.values()]
    return sorted(
        found, key=lambda piece: (piece[0], piece[2] is None)
    )  # a block before the glue that follows it


class _Names:
    """Unique names for blocks: the scope, or for glue that of its last weighted node."""

    def __init__(self, scopes: Iterable[str]) -> None:
        self._taken = dict.fromkeys(scopes, 1)  # glue between a block's nodes may not take its name

    def give(self, nodes: Sequence[ir.Node], scope: str | None) -> str:
        if scope is not None:
            return scope
        weighted = [node for node in nodes if any(value and value.is_initializer() for value in node.inputs)]
        inner = [inner for node in (*nodes, *weighted) for inner in node_scopes(node)[-2:-1] if inner]
        name = inner[-1] if inner else "glue"
        count = self._taken[name] = self._taken.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"


def _block(
    names: _Names,
    block_of: Mapping[ir.Node, int],
    varying: Set[ir.Value],
    nodes: Sequence[ir.Node],
    scope: str | None,
) -> Block:
    index = block_of[nodes[0]]
    inputs: dict[ir.Value, None] = {}
    outputs: dict[ir.Value, None] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None or value.is_initializer():
                continue
            producer = value.producer()
            if producer is None or block_of[producer] != index:
                inputs.setdefault(value)
        for value in node.outputs:
            if value.is_graph_output() or any(block_of[use.node] != index for use in value.uses()):
                outputs.setdefault(value)
    return Block(
        name=names.give(nodes, scope),
        scope=scope,
        nodes=tuple(node.name or "" for node in nodes),
        inputs=tuple(map(_name, inputs)),
        outputs=tuple(map(_name, outputs)),
        adds_to=_adds_to([value for value in inputs if value in varying], list(outputs)),
    )


def _adds_to(inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> str | None:
    """What a block's residual is relative to: see ``Block``."""
    if len(outputs) != 1:
        return None
    alike = [value for value in inputs if (value.shape, value.dtype) == (outputs[0].shape, outputs[0].dtype)]
    return _name(alike[0]) if len(alike) == 1 else None


def _tensor_specs(graph: ir.Graph, blocks: Iterable[Block]) -> dict[str, TensorSpec]:
    values = {_name(value): value for value in graph.inputs}
    values |= {_name(value): value for node in graph for value in node.outputs}
    names = [_name(value) for value in graph.inputs]
    names += [name for block in blocks for name in (*block.inputs, *block.outputs)]
    return {name: tensor_spec(values[name]) for name in dict.fromkeys(names)}


def tensor_spec(value: ir.Value) -> TensorSpec:
    """Dtype and static shape. Raises GraphError when the graph doesn't tell them."""
    if value.dtype is None or value.shape is None or not value.shape.is_static():
        raise GraphError(
            f"the tensor {value.name!r} between two blocks has no static shape",
            mend="export the denoiser with static shapes",
        )
    return TensorSpec(value.dtype.numpy().name, value.shape.numpy())


def _parents(node: ir.Node) -> list[ir.Node]:
    producers = (value.producer() for value in node.inputs if value is not None)
    return [producer for producer in producers if producer is not None]


def _name(value: ir.Value) -> str:
    assert value.name is not None  # the exporter names every value
    return value.name
