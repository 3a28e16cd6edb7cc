"""hoist_modulation: what timestep and conditions decide together is computed for all calls at once.

Binding-time analysis again: a tensor *modulates* when it depends on the timestep and on conditions (class,
pooled prompt, guidance embedding), and on nothing else but weights. In a DiT these are the projections of
adaLN-Zero, a third of all weights, in Stable Diffusion XL those of the time embedding. A call projects one
row for each of its samples, which takes as long as reading the weights takes. One engine, ``modulation``,
projects in the prologue the rows of all calls that need them, and reads the weights once an image.

The engine is a part of the graph, repeated for a larger batch (``graphs/stacking.py``). It is run at build
time and compared with what calls compute one by one; what the two don't agree on stays in the calls. All of
it stays there if the rows of all calls would take more memory than the model's weights: so many rows, of a
large batch, are not projected faster at once.

Under split guidance the engine is for the samples of one half and runs once for each, of which that for
``uncond`` is not needed at guidance scale 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace

import onnx_ir as ir

from dipgo_compile.graphs.engines import weight_bytes
from dipgo_compile.graphs.partition import tensor_spec
from dipgo_compile.graphs.stacking import BOTH, Stacker, at
from dipgo_compile.graphs.subgraph import boundary
from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.passes.eliminate_dead import EliminateDead
from dipgo_compile.passes.hoist_prompt import WORK, Cut, cut_at, moved
from dipgo_compile.passes.unroll import given_to, in_half
from dipgo_compile.program import PROLOGUE, BlockGraph, Engine, Instruction, Program, Run, TensorSpec

ENGINE = "modulation"


class HoistModulation(Pass):
    """Expects one engine a block, whose inputs and outputs are named by ``graph`` tensors. Adds nodes to the
    model.
    """

    name = "hoist_modulation"

    def __init__(self, model: ir.Model, graph: BlockGraph) -> None:
        self._model, self._graph = model, graph

    def __call__(self, program: Program) -> PassResult:
        stacker = Stacker(self._model, self._graph)
        candidates = {
            str(value.name): value
            for value, depends in stacker.depends.items()
            if depends == BOTH and _is_work(value) and value.name != self._graph.output
        }
        limit = weight_bytes(self._model)
        refused: set[str] = set()
        while True:
            cut = cut_at(self._model, program, candidates.keys() - refused)
            rest = _reading(program, cut)
            wanted = _timesteps(rest, cut.known)
            nbytes = sum(tensor_spec(candidates[name]).nbytes * len(wanted[name]) for name in wanted)
            if nbytes > limit:
                stacker.clear()
                return PassResult(
                    program, False, f"{nbytes:,} bytes for all calls: more than all weights take"
                )
            failed = {name for name, timesteps in wanted.items() if not stacker.stack(name, timesteps)}
            if not failed:
                break
            refused |= failed
            stacker.clear()
        if not wanted:
            return PassResult(program, False, "no work of two calls depends on timestep and conditions")
        specs = {
            at(name, timestep): tensor_spec(candidates[name])
            for name, timesteps in wanted.items()
            for timestep in timesteps
        }
        result = self._with_modulation(rest, specs)
        blocks = sum(not wanted.keys().isdisjoint(engine.inputs) for engine in rest.engines)
        return PassResult(
            result, True, f"{len(wanted)} tensors of {blocks} blocks, {nbytes:,} bytes for all calls"
        )

    def _with_modulation(self, rest: Program, specs: Mapping[str, TensorSpec]) -> Program:
        """The program with the engine and the runs that define the tensors of ``specs``."""
        outputs = tuple(specs)
        halves = dict.fromkeys(run.half for run in rest.runs())
        settled = {half: _prologue_values(rest, half) for half in halves}
        known = dict.fromkeys(name for values in settled.values() for name in values)
        inputs = boundary(self._model, (*self._graph.conditions, *known), outputs)
        runs = [
            Run(
                ENGINE,
                PROLOGUE,
                tuple(values[name] if name in values else given_to(half, name) for name in inputs),
                tuple(in_half(name, half) for name in outputs),
                half,
            )
            for half, values in settled.items()
        ]
        once = sum(run.call == PROLOGUE for run in rest.runs())  # they come first, and so do their engines
        first = len({run.engine for run in rest.runs() if run.call == PROLOGUE})
        engine = Engine(ENGINE, (ENGINE,), inputs, outputs)
        return replace(
            rest,
            engines=(*rest.engines[:first], engine, *rest.engines[first:]),
            specs={
                **rest.specs,
                **{in_half(name, half): spec for name, spec in specs.items() for half in halves},
            },
            instructions=(*rest.instructions[:once], *runs, *rest.instructions[once:]),
        )


def _is_work(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in WORK and value.shape is not None and value.shape.is_static()


def _reading(program: Program, cut: Cut) -> Program:
    """The program whose runs read the known tensors of the cut, each at its timestep, without what is left to
    compute for nobody.
    """
    engines = cut.engines(program)
    instructions: list[Instruction] = []
    for instruction in program.instructions:
        if isinstance(instruction, Run) and instruction.call != PROLOGUE:
            timestep = program.calls[instruction.call].timestep
            hoisted = {name: in_half(at(name, timestep), instruction.half) for name in cut.known}
            run = moved(instruction, program, engines, hoisted)
            instructions += [] if run is None else [run]
        else:
            instructions.append(instruction)
    read = replace(program, engines=tuple(engines.values()))
    return EliminateDead()(read.with_instructions(tuple(instructions))).program


def _timesteps(program: Program, known: Set[str]) -> dict[str, tuple[float, ...]]:
    """For every known tensor that is read, the timesteps at which it is, in order of use."""
    found: dict[str, dict[float, None]] = {}
    for run in program.runs():
        if run.call != PROLOGUE:
            for name in known & set(program.engine(run.engine).inputs):
                found.setdefault(name, {})[program.calls[run.call].timestep] = None
    return {name: tuple(steps) for name, steps in sorted(found.items())}


def _prologue_values(program: Program, half: str | None) -> dict[str, str]:
    """The tensors that the prologue computes already for a half, and the values they are in the program."""
    return {
        tensor: value
        for run in program.runs()
        if run.call == PROLOGUE and run.half == half
        for tensor, value in zip(program.engine(run.engine).outputs, run.outputs, strict=True)
        if value is not None
    }
