"""Module scopes of the nodes of an ONNX graph, as its exporter noted them, or as cuts define them.

torch.onnx's exporter of today notes them as metadata. The older one, through TorchScript, puts them into node
names: ``/down_blocks.0/resnets.0/conv1/Conv``. Where neither did, the user names tensors to cut at.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import onnx_ir as ir

from dipgo_compile.errors import GraphError
from dipgo_compile.graphs.partition import SCOPES, node_scopes, shared_invariants, varying_values

NAMESPACE = "namespace"  # the exporter's other metadata key: "scope: class/scope: class/.../node: operator"


def note_scopes(graph: ir.Graph) -> None:
    """Write the module scopes of every node where ``partition`` looks for them."""
    for node in graph:
        if SCOPES not in node.metadata_props:
            found = _from_namespace(node) or _from_name(node.name or "")
            if found:
                node.metadata_props[SCOPES] = repr(found)


def known_scopes(graph: ir.Graph) -> tuple[str, ...]:
    """Every module scope, in the order in which the graph first enters it."""
    order: dict[str, None] = {}
    for node in graph:
        order.update(dict.fromkeys(scope for scope in node_scopes(node)[:-1] if scope))
    return tuple(order)


def cut(graph: ir.Graph, tensors: Sequence[str], sample: str) -> tuple[str, ...]:
    """Make the pieces between ``tensors`` the only scopes, each named after the tensor it computes; they are
    returned in the order of the graph.

    What comes before the first tensor and after the last belongs to no scope, and neither does what several
    pieces share without its depending on the ``sample``: the time embedding. Inputs can be tensors to cut
    at: with the sample as the first, nothing comes before it. Raises GraphError for unknown tensors, and
    where one needs nothing but what comes before the tensor ahead of it.
    """
    position = {value.name: -1 for value in graph.inputs}
    producer: dict[str | None, ir.Node] = {}
    for index, node in enumerate(graph):
        position |= {value.name: index for value in node.outputs}
        producer |= {value.name: node for value in node.outputs}
    for name in tensors:
        if name not in position:
            names = [str(known) for known in position]
            close = difflib.get_close_matches(name, names, n=5)
            raise GraphError(
                f"the graph has no tensor {name!r} to cut at",
                available=close or names[:20],
                mend="name tensors of the ONNX file; a viewer such as Netron shows them",
            )
    ordered = sorted(dict.fromkeys(tensors), key=lambda name: position[name])
    owner: dict[ir.Node, str | None] = {}
    for name in ordered:
        before = len(owner)
        _claim(producer.get(name), name, owner)
        if name != ordered[0] and len(owner) == before:
            raise GraphError(
                f"there is nothing between {ordered[ordered.index(name) - 1]!r} and {name!r}",
                where="cuts",
                mend="leave one of the two out",
            )
    owner = {node: None if owner.get(node) == ordered[0] else owner.get(node) for node in graph}
    shared = shared_invariants(graph, owner, varying_values(graph, sample))
    for node in graph:
        scope = None if node in shared else owner[node]
        inside = [] if scope is None else [scope]
        node.metadata_props[SCOPES] = repr(["", *inside, node.name])
    return tuple(ordered[1:])


def _claim(last: ir.Node | None, name: str, owner: dict[ir.Node, str | None]) -> None:
    """Give to ``name`` all that ``last`` needs and nobody owns yet."""
    pending = [last] if last is not None else []
    while pending:
        node = pending.pop()
        if node in owner:
            continue
        owner[node] = name
        producers = (value.producer() for value in node.inputs if value is not None)
        pending += [above for above in producers if above is not None]


def _from_namespace(node: ir.Node) -> list[str]:
    parts = node.metadata_props.get(NAMESPACE, "").split("/")
    return [part.partition(": ")[0] for part in parts] if len(parts) > 1 else []


def _from_name(name: str) -> list[str]:
    """``/down_blocks.0/resnets.0/conv1/Conv`` to ["", "down_blocks.0", "down_blocks.0.resnets.0", ...].

    A module that calls its own children by number repeats itself: ``/clock/clock.0/Gemm``.
    """
    if not name.startswith("/"):
        return []
    *parts, own = name[1:].split("/")
    scopes, parent, last = [""], "", ""
    for part in parts:
        outer = parent if last and part.startswith(f"{last}.") else scopes[-1]
        scopes.append(f"{outer}.{part}" if outer else part)
        parent, last = outer, part
    return [*scopes, own]
