"""fold_timestep: what depends on the timestep alone is computed at build time.

Engines read early tensors (``graphs/early.py``) as constants, one per timestep, and the nodes that made them
(time embedding, every block's projection of it) are no longer between an engine's inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dipgo_compile.graphs.early import early_tensors
from dipgo_compile.graphs.subgraph import boundary, evaluate
from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.program import Array, BlockGraph, Engine, Instruction, Program, Run, TensorSpec


class FoldTimestep(Pass):
    """Expects one engine a block, whose inputs are named by ``graph`` tensors."""

    name = "fold_timestep"

    def __init__(self, model: ir.Model, graph: BlockGraph) -> None:
        self._model = model
        self._timestep, self._spec = graph.timestep, graph.tensors[graph.timestep]

    def __call__(self, program: Program) -> PassResult:
        early = early_tensors(self._model.graph, self._timestep) - _constant_inputs(program)
        engines = {engine.name: self._without(engine, early) for engine in program.engines}
        wanted = tuple(
            dict.fromkeys(
                name for engine in engines.values() if engine for name in engine.inputs if name in early
            )
        )
        if not wanted:
            return PassResult(program, False, "nothing depends on the timestep alone")
        steps = sorted({program.calls[run.call].timestep for run in program.runs()})
        tables = self._tables(steps, wanted)
        instructions: list[Instruction] = []
        constants = dict(program.constants)
        for instruction in program.instructions:
            if not isinstance(instruction, Run):
                instructions.append(instruction)
                continue
            engine = engines[instruction.engine]
            if engine is None:  # all it computes is early
                continue
            before = program.engine(instruction.engine)
            step = program.calls[instruction.call].timestep
            values = dict(zip(before.inputs, instruction.inputs, strict=True))
            computed = dict(zip(before.outputs, instruction.outputs, strict=True))
            for name in engine.inputs:
                if name in early:
                    values[name] = f"{name}@t{step:.10g}"
                    constants[values[name]] = tables[step][name]
            inputs = tuple(values[name] for name in engine.inputs)
            outputs = tuple(computed[name] for name in engine.outputs)
            instructions.append(replace(instruction, inputs=inputs, outputs=outputs))
        specs = dict(program.specs) | {
            name: TensorSpec(data.dtype.name, data.shape) for name, data in constants.items()
        }
        folded = replace(
            program,
            engines=tuple(engine for engine in engines.values() if engine),
            specs=specs,
            constants=constants,
        ).with_instructions(tuple(instructions))
        nbytes = sum(data.nbytes for data in folded.constants.values())
        summary = f"{len(wanted)} tensors at {len(steps)} timesteps, {nbytes:,} bytes"
        return PassResult(folded, True, summary)

    def _without(self, engine: Engine, early: set[str]) -> Engine | None:
        """The engine reading early tensors instead of computing them; None when nothing else is left of
        it.
        """
        outputs = tuple(name for name in engine.outputs if name not in early)
        if not outputs:
            return None
        inputs = boundary(self._model, engine.inputs, outputs, early)
        return replace(engine, inputs=inputs, outputs=outputs)

    def _tables(self, steps: Sequence[float], wanted: tuple[str, ...]) -> dict[float, Mapping[str, Array]]:
        """The ``wanted`` tensors at each timestep."""
        feeds = [{self._timestep: np.full(self._spec.shape, step, dtype=self._spec.dtype)} for step in steps]
        values = evaluate(self._model, feeds, wanted)
        return {step: dict(zip(wanted, row, strict=True)) for step, row in zip(steps, values, strict=True)}


def _constant_inputs(program: Program) -> set[str]:
    """The tensors that engines read as constants already."""
    inputs = {engine.name: engine.inputs for engine in program.engines}
    read = ((inputs[run.engine], run.inputs) for run in program.runs())
    pairs = (pair for tensors, values in read for pair in zip(tensors, values, strict=True))
    return {tensor for tensor, value in pairs if value in program.constants}
