"""hoist_prompt: what depends on the conditions alone is computed once an image, in a prologue.

Binding-time analysis on the ONNX graph, as in ``fold_timestep``: a tensor is *settled* when it depends on
conditions (prompt embeddings, attention masks, class labels) and on weights only. Keys and values of
cross-attention are, caption projections and projected class embeddings. One engine, ``prologue``, computes
settled tensors before the first call, and the other engines read them.

A hoisted tensor lives in the arena for the whole image, so it has to save something: work (``WORK``) lies
behind it, and at least two calls read it. Reshapes and transposes go along with the work they follow; alone,
as on an attention mask, they stay in the calls, and so does a broadcast to a larger shape. An engine that
reads conditions alone goes to the prologue whole, whatever it computes: ``value_numbering`` lets it run once
anyway, but in the first call, which would then be unlike the others (PixArt's mask, spread out once for all
blocks).

Under split guidance the prologue runs once for each half, on its conditions, and a half reads what its own
run gave.

Tensors of the timestep *and* a condition, such as the modulation of a DiT, are left to ``hoist_modulation``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace

import onnx_ir as ir

from dipgo_compile.graphs.early import is_large_broadcast
from dipgo_compile.graphs.partition import tensor_spec
from dipgo_compile.graphs.subgraph import boundary
from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.passes.unroll import given_to, in_half
from dipgo_compile.program import PROLOGUE, BlockGraph, Engine, Instruction, Program, Run, TensorSpec

ENGINE = "prologue"
WORK = frozenset(
    {
        "Attention",
        "Conv",
        "Gemm",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "MatMul",
        "MultiHeadAttention",
        "RMSNormalization",
    }
)


@dataclass(frozen=True)
class Cut:
    """``inputs``: what each engine reads when the ``known`` tensors need not be computed."""

    known: Set[str]
    inputs: Mapping[str, tuple[str, ...]]

    def hoisted(self) -> set[str]:
        return {name for inputs in self.inputs.values() for name in inputs if name in self.known}

    def engines(self, program: Program) -> dict[str, Engine]:
        """The engines of ``program``, which read the known tensors instead of computing them."""
        return {
            engine.name: replace(
                engine,
                inputs=self.inputs[engine.name],
                outputs=tuple(name for name in engine.outputs if name not in self.known),
            )
            for engine in program.engines
        }


class HoistPrompt(Pass):
    """Expects one engine a block, whose inputs and outputs are named by ``graph`` tensors."""

    name = "hoist_prompt"

    def __init__(self, model: ir.Model, graph: BlockGraph) -> None:
        self._model = model
        self._conditions, self._output, self._tensors = graph.conditions, graph.output, graph.tensors

    def __call__(self, program: Program) -> PassResult:
        if any(run.call == PROLOGUE for run in program.runs()):
            return PassResult(program, False, "there is a prologue already")
        settled = settled_tensors(self._model.graph, self._conditions) | self._of_whole_engines(program)
        cut = cut_at(self._model, program, settled.keys() - {self._output})
        hoisted = cut.hoisted()
        outputs = tuple(name for name in settled if name in hoisted)
        if not outputs:
            return PassResult(program, False, "no work that two calls share depends on the conditions alone")
        readers = tuple(name for name, inputs in cut.inputs.items() if not hoisted.isdisjoint(inputs))
        prologue = Engine(ENGINE, readers, boundary(self._model, self._conditions, outputs), outputs)
        engines = cut.engines(program)
        halves = dict.fromkeys(run.half for run in program.runs())
        values = {half: {name: in_half(f"{name}@{ENGINE}", half) for name in outputs} for half in halves}
        instructions: list[Instruction] = []
        for half, computed in values.items():
            given = tuple(given_to(half, name) for name in prologue.inputs)
            instructions.append(Run(ENGINE, PROLOGUE, given, tuple(computed.values()), half))
        for instruction in program.instructions:
            if not isinstance(instruction, Run):
                instructions.append(instruction)
            elif (run := moved(instruction, program, engines, values[instruction.half])) is not None:
                instructions.append(run)
        specs = {computed[name]: settled[name] for computed in values.values() for name in outputs}
        result = replace(
            program, engines=(prologue, *engines.values()), specs={**program.specs, **specs}
        ).with_instructions(tuple(instructions))
        nbytes = sum(spec.nbytes for spec in specs.values())
        return PassResult(result, True, f"{len(outputs)} tensors of {len(readers)} blocks, {nbytes:,} bytes")

    def _of_whole_engines(self, program: Program) -> dict[str, TensorSpec]:
        """What engines give that read nothing but conditions."""
        settled = dict.fromkeys(self._conditions)
        found: dict[str, TensorSpec] = {}
        for engine in program.engines:
            if engine.inputs and settled.keys() >= set(engine.inputs):
                settled |= dict.fromkeys(engine.outputs)
                found |= {name: self._tensors[name] for name in engine.outputs}
        return found


def cut_at(model: ir.Model, program: Program, candidates: Set[str]) -> Cut:
    """Keeps the candidates that at least two calls read. One that is dropped is computed by its reader again,
    which may then read candidates behind it.
    """
    calls: dict[str, set[int]] = {}
    for run in program.runs():
        calls.setdefault(run.engine, set()).add(run.call)
    known = set(candidates)
    while True:
        inputs = {
            engine.name: boundary(model, engine.inputs, engine.outputs, known) for engine in program.engines
        }
        readers: dict[str, set[int]] = {}
        for engine, read in inputs.items():
            for name in known.intersection(read):
                readers.setdefault(name, set()).update(calls[engine])
        once = {name for name, reading in readers.items() if len(reading) < 2}
        if not once:
            return Cut(known, inputs)
        known -= once


def moved(
    run: Run, program: Program, engines: Mapping[str, Engine], hoisted: Mapping[str, str]
) -> Run | None:
    """The run of an engine that reads ``hoisted`` values; None when nothing is left to compute."""
    before, after = program.engine(run.engine), engines[run.engine]
    values = {**dict(zip(before.inputs, run.inputs, strict=True)), **hoisted}
    computed = dict(zip(before.outputs, run.outputs, strict=True))
    outputs = tuple(computed[name] for name in after.outputs)
    if all(name is None for name in outputs):
        return None
    return replace(run, inputs=tuple(values[name] for name in after.inputs), outputs=outputs)


def settled_tensors(graph: ir.Graph, conditions: Collection[str]) -> dict[str, TensorSpec]:
    """The tensors worth hoisting: they depend on ``conditions`` and weights only, and work lies behind them.

    In the graph's order. Large broadcasts are left out, and what follows them.
    """
    varying: set[ir.Value] = {value for value in graph.inputs if value.name not in conditions}
    settled: set[ir.Value] = {value for value in graph.inputs if value.name in conditions}
    worked: dict[ir.Value, None] = {}
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if not varying.isdisjoint(read) or is_large_broadcast(node):
            varying.update(node.outputs)
        elif not settled.isdisjoint(read):
            settled.update(node.outputs)
            if node.op_type in WORK or not worked.keys().isdisjoint(read):
                worked.update(dict.fromkeys(node.outputs))
    return {value.name: tensor_spec(value) for value in worked if value.name and _is_static(value)}


def _is_static(value: ir.Value) -> bool:
    return value.dtype is not None and value.shape is not None and value.shape.is_static()
