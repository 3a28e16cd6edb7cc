"""Which modules of a denoiser could serve as blocks, judged by its ONNX graph.

A good block holds much of the work, passes few bytes on, and comes in numbers: most denoisers are rows of
numbered modules. ``suggest`` descends from the outermost module as long as one holds most of the work.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from dipgo_compile.graphs.partition import node_scopes, varying_values
from dipgo_compile.macs.graph import node_macs

DOMINANT = 0.6  # a module with more of the work than this is looked into
SMALLEST = 0.005  # of the work: what has less is no block of its own, unless it is one of a numbered row
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Candidate:
    """A module as a block. ``macs``: of one call for one sample. ``inputs``: the tensors that it reads from
    elsewhere, weights left out. ``outputs``: those that depend on the sample and that others read, which is
    what is kept for a call that reuses the block. Bytes are of the whole batch.
    """

    scope: str
    macs: int
    inputs: int
    input_bytes: int
    outputs: int
    output_bytes: int


def candidates(graph: ir.Graph, sample: str, batch: int, scopes: Iterable[str]) -> tuple[Candidate, ...]:
    """What each of ``scopes`` would be as a block, in their order. They may lie inside one another."""
    members: defaultdict[str, set[ir.Node]] = defaultdict(set)
    for node, named in _scopes(graph).items():
        for scope in named:
            members[scope].add(node)
    varying = varying_values(graph, sample)
    macs = node_macs(graph)
    found = []
    for scope in scopes:
        nodes = members[scope]
        read = {value for node in nodes for value in node.inputs if value is not None}
        inputs = [v for v in read if v.producer() not in nodes and not v.is_initializer()]
        outputs = [v for node in nodes for v in node.outputs if v in varying and _leaves(v, nodes)]
        found.append(
            Candidate(
                scope,
                sum(macs.get(node, 0) for node in nodes) // batch,
                len(inputs),
                sum(map(_nbytes, inputs)),
                len(outputs),
                sum(map(_nbytes, outputs)),
            )
        )
    return tuple(found)


def suggest(graph: ir.Graph, sample: str, granularity: str = "block") -> tuple[str, ...]:
    """Scopes that would do as blocks, in the order of the graph, none inside another; at the granularity
    ``layer`` the modules inside them that hold work.

    Only modules that compute something from the sample qualify, and of those that hold no other module only
    the numbered ones: a lone convolution at either end stays outside.
    """
    tree = _Tree(graph, sample)
    chosen = tree.children("")
    while True:
        heavy = max(chosen, key=lambda scope: tree.macs[scope], default="")
        inner = tree.children(heavy) if heavy else []
        if not inner or tree.macs[heavy] <= DOMINANT * tree.macs[""] or tree.is_numbered(heavy, chosen):
            break
        at = chosen.index(heavy)
        chosen[at : at + 1] = inner
    if granularity == "layer":
        inner = [inner for scope in tree.qualified(chosen) for inner in tree.children(scope) or [scope]]
        return tuple(tree.qualified(inner, least=0.0))
    return tuple(tree.qualified(chosen))


def pattern_of(chosen: Sequence[str], scopes: Iterable[str]) -> str:
    """A regular expression that of ``scopes`` matches just ``chosen``: numbers become ``\\d+`` where that
    holds.
    """
    general = dict.fromkeys(_template(scope) for scope in chosen)
    pattern = "|".join(general)
    if tuple(scope for scope in scopes if re.fullmatch(pattern, scope)) == tuple(chosen):
        return pattern
    return "|".join(re.escape(scope) for scope in chosen)


class _Tree:
    """The modules of a graph, which contains which, and their MACs. The root is called by the empty name."""

    def __init__(self, graph: ir.Graph, sample: str) -> None:
        self.macs: Counter[str] = Counter()
        self._children: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._varying: set[str] = set()
        macs, varying = node_macs(graph), varying_values(graph, sample)
        for node, named in _scopes(graph).items():
            scopes = named or [""]
            for outer, inner in pairwise(scopes):
                self._children[outer][inner] = None
            for scope in set(scopes) | {""}:
                self.macs[scope] += macs.get(node, 0)
            if not varying.isdisjoint(node.outputs):
                self._varying.update(scopes)

    def children(self, scope: str) -> list[str]:
        return list(self._children.get(scope, ()))

    def is_numbered(self, scope: str, among: Iterable[str]) -> bool:
        """Whether a sibling differs in a number only."""
        return any(other != scope and _template(other) == _template(scope) for other in among)

    def qualified(self, scopes: Sequence[str], least: float = SMALLEST) -> list[str]:
        rows: Mapping[str, int] = Counter(_template(scope) for scope in scopes)
        work: Counter[str] = Counter()
        for scope in scopes:
            work[_template(scope)] += self.macs[scope]

        def fits(scope: str) -> bool:
            row = _template(scope)
            composed = rows[row] > 1 or bool(self._children.get(scope))
            return scope in self._varying and composed and work[row] > least * self.macs[""]

        return [scope for scope in scopes if fits(scope)]


def _template(scope: str) -> str:
    return NUMBER.sub(r"\\d+", re.escape(scope))


def _scopes(graph: ir.Graph) -> dict[ir.Node, list[str]]:
    """The module scopes of every node, outermost first. The exporter forgets those of a node here and there:
    they are what its neighbours have in common.
    """
    found: dict[ir.Node, list[str]] = {}
    for node in graph:
        named = node_scopes(node)[:-1]
        if not named:
            above = [value.producer() for value in node.inputs if value is not None]
            near = [found[parent] for parent in above if parent is not None]
            near += [node_scopes(use.node)[:-1] for value in node.outputs for use in value.uses()]
            named = [scope for scope in near[0] if all(scope in others for others in near)] if near else []
        found[node] = named
    return found


def _leaves(value: ir.Value, nodes: set[ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in nodes for use in value.uses())


def _nbytes(value: ir.Value) -> int:
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return 0
    count = 1
    for size in value.shape.numpy():
        count *= size
    return int(count * value.dtype.itemsize)
