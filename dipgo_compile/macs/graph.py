"""Multiply-accumulates of an ONNX graph: what ``macs.py`` counts in PyTorch, for denoisers that are files.

Counted are convolutions and products with weights. A product of two tensors that both depend on an input is
attention's, or a like one, and isn't counted, as the paper doesn't, unless it is asked for. What the older
exporter writes as ``MatMul`` and today's as ``Gemm`` counts the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable

import onnx_ir as ir

from dipgo_compile.errors import GraphError
from dipgo_compile.graphs.partition import node_scopes, varying_values
from dipgo_compile.graphs.scopes import known_scopes
from dipgo_compile.macs.counts import Macs
from dipgo_compile.macs.kinds import ATTENTION, CONVOLUTION, PRODUCT, kind_of
from dipgo_compile.masks.checks import unknown_block


def count_graph_macs(model: ir.Model, batch: int, scopes: Iterable[str]) -> Macs:
    """MACs of one call for one sample, of a graph with static shapes for ``batch`` samples.

    A scope counts all that lies in it, as in ``count_macs``. Raises MaskError for a scope that the graph
    doesn't have, GraphError for a convolution or a product of unknown shape.
    """
    total = 0
    by_scope: Counter[str] = Counter()
    for node, macs in node_macs(model.graph).items():
        total += macs
        for scope in set(node_scopes(node)[:-1]):
            by_scope[scope] += macs
    known = known_scopes(model.graph)
    chosen = {}
    for scope in scopes:
        if scope not in known:
            raise unknown_block(scope, known)
        chosen[scope] = by_scope[scope] // batch
    return Macs(total // batch, chosen)


def idle_call_computes(graph: ir.Graph, sample: str, timestep: str, blocks: Collection[str]) -> bool:
    """Whether a call that reuses all ``blocks`` has anything to compute: whether sample or timestep reach the
    output past them.
    """
    varying = varying_values(graph, sample)
    reached = {value for value in graph.inputs if value.name in (sample, timestep)}
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        reused = not varying.isdisjoint(node.outputs) and any(
            scope in blocks for scope in node_scopes(node)[:-1]
        )
        if not reused and not reached.isdisjoint(read):
            reached.update(node.outputs)
    return not reached.isdisjoint(graph.outputs)


def macs_by_kind(graph: ir.Graph) -> Counter[str]:
    """MACs of one run by kind of operator (``kinds.py``), with the products inside attention, and those of
    the body of a ``Scan`` for each of its slices.
    """
    found: Counter[str] = Counter()
    for node, macs in node_macs(graph, attention=True).items():
        found[kind_of(node.op_type)] += macs
    for node in graph:
        if node.op_type == "Scan":
            sliced = node.inputs[-node.attributes["num_scan_inputs"].as_int()]
            for kind, macs in macs_by_kind(node.attributes["body"].as_graph()).items():
                found[kind] += _shape(node, sliced)[0] * macs
    return found


def node_macs(graph: ir.Graph, *, attention: bool = False) -> dict[ir.Node, int]:
    """MACs of the nodes that have any. ``attention``: also of the products inside attention."""
    varying: set[ir.Value] = set(graph.inputs)
    found: dict[ir.Node, int] = {}
    for node in graph:
        if varying.isdisjoint(value for value in node.inputs if value is not None):
            continue
        varying.update(node.outputs)
        kind = kind_of(node.op_type)
        if kind == CONVOLUTION:
            each = node.inputs[0] if node.op_type == "ConvTranspose" else node.outputs[0]
            found[node] = _size(node, each) * math.prod(_shape(node, node.inputs[1])[1:])
        elif kind == PRODUCT and (
            attention or not varying.issuperset(value for value in node.inputs[:2] if value)
        ):
            found[node] = _size(node, node.outputs[0]) * _summed(node)
        elif kind == ATTENTION and attention:
            found[node] = _attention(node)
    return found


def _attention(node: ir.Node) -> int:
    """Queries with keys, and scores with values. Keys are (..., positions, channels)."""
    queries, keys = node.inputs[:2]
    return (_size(node, queries) + _size(node, node.outputs[0])) * _shape(node, keys)[-2]


def _summed(node: ir.Node) -> int:
    """The length of the axis that a product sums over."""
    shape = _shape(node, node.inputs[0])
    transposed = node.attributes.get("transA")
    return shape[0] if transposed is not None and transposed.as_int() else shape[-1]


def _size(node: ir.Node, value: ir.Value | None) -> int:
    return math.prod(_shape(node, value))


def _shape(node: ir.Node, value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None or not value.shape.is_static():
        name = None if value is None else value.name
        raise GraphError(
            f"the shape of {name!r} is unknown, so the MACs of the {node.op_type} {node.name!r} are, too",
            mend="export the denoiser with static shapes, or fix its free dimensions with --dim NAME=N",
        )
    return tuple(value.shape.numpy())
