"""A rewrite changes the exported graph in place, before it is cut into blocks.

Passes see blocks only; what happens between the nodes of a block is decided here. A replacement must look to
the partitioner like the nodes it replaces: every new node carries the module scopes of an old one, and every
new tensor its shape and dtype, since any of them may end up between two engines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from dipgo_compile.graphs.partition import SCOPES, node_scopes
from dipgo_compile.program import Array


@dataclass(frozen=True)
class Form:
    """A pattern, what replaces it, and whether it may: functions as ``RewriteRule`` takes them."""

    pattern: Callable[..., Any]
    replacement: Callable[..., Any]
    is_valid: Callable[..., bool]

    def rule(self, name: str, blocks: Collection[str]) -> RewriteRule:
        def is_valid(context: Any, **values: Any) -> bool:
            return in_one_block(context.nodes, blocks) and self.is_valid(context, **values)

        return RewriteRule(self.pattern, self.replacement, is_valid, name=name)


class Rewrite:
    """Replaces every match of a few forms. It must not change what the graph computes, but for rounding.

    ``backends`` names those that have the kernels it needs, and where it pays; ``cpu_only``: not on a GPU.
    """

    name: ClassVar[str]
    backends: ClassVar[frozenset[str]]
    cpu_only: ClassVar[bool] = False
    forms: ClassVar[tuple[Form, ...]]

    def __call__(self, model: ir.Model, blocks: Collection[str] = ()) -> int:
        """Change ``model`` in place; return the number of matches replaced. Left alone is what belongs to
        several of ``blocks``, the scopes that the model will be cut into.
        """
        rules = [form.rule(self.name, blocks) for form in self.forms]
        count = RewriteRuleSet(rules, commute=True).apply_to_model(model)
        if count:
            RemoveUnusedNodesPass()(model)  # and the weights that replacements no longer read
        return count


def describe(
    value: ir.Value, origin: ir.Node, like: ir.Value, shape: Sequence[int] | None = None
) -> ir.Value:
    """Give a new node's output the dtype of ``like`` and its shape, or ``shape``, and the node the module
    scopes of ``origin``.
    """
    value.type = like.type
    value.shape = like.shape if shape is None else ir.Shape(shape)
    node = value.producer()
    if node is not None and SCOPES in origin.metadata_props:
        node.metadata_props[SCOPES] = origin.metadata_props[SCOPES]
    return value


def producer(value: ir.Value) -> ir.Node:
    """The node of a value that a pattern matched as a node's output."""
    node = value.producer()
    assert node is not None
    return node


def in_one_block(nodes: Sequence[ir.Node], blocks: Collection[str]) -> bool:
    """Whether ``nodes`` lie in one of ``blocks``, or all outside. A node without scopes is where the others
    are.
    """
    named = [scopes for node in nodes if (scopes := node_scopes(node))]
    return len({next((scope for scope in scopes if scope in blocks), None) for scopes in named}) <= 1


def dims(value: ir.Value) -> tuple[int, ...] | None:
    """The static shape of a value, or None."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def weight(value: ir.Value) -> ir.TensorProtocol | None:
    """The data of an initializer that no caller can override, or None."""
    return value.const_value if value.is_initializer() and not value.is_graph_input() else None


def constant(op: Any, origin: ir.Node, name: str, array: Array) -> ir.Value:
    """An initializer for the replacement of ``origin`` that ``op`` builds; equal names share one."""
    graph = origin.graph
    found = graph.initializers.get(name) if isinstance(graph, ir.Graph) else None
    made: ir.Value = found if found is not None else op.initializer(ir.Tensor(array, name=name), name=name)
    return made
