"""fuse: the runs of a call become one engine.

Calls that compute the same blocks share an engine (a *pattern*); its outputs are all that any of those calls
must hand on. Every engine costs load time and memory, so at most ``max_engines`` patterns are built, those
that save the most runs first; what is left stays as one engine a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.program import Engine, Instruction, Program, Run, reads
from dipgo_compile.subgraph import boundary

MAX_ENGINES = 8


@dataclass(frozen=True)
class _FusedCall:
    """The runs of one call seen as one. Tensor names map to the values they stand for in this call."""

    blocks: tuple[str, ...]
    inside: Mapping[str, str]
    outside: Mapping[str, str]
    outputs: tuple[str, ...]


class Fuse(Pass):
    """``max_engines`` = 0 leaves one engine a block."""

    name = "fuse"

    def __init__(self, model: ir.Model, max_engines: int = MAX_ENGINES) -> None:
        self._model, self._max_engines = model, max_engines

    def __call__(self, program: Program) -> PassResult:
        calls = {index: _fused_call(program, index) for index in program.calls_with_runs()}
        calls = {index: call for index, call in calls.items() if call.outputs}  # the rest is dead code
        patterns: dict[tuple[str, ...], list[int]] = {}
        for index, call in calls.items():
            patterns.setdefault(call.blocks, []).append(index)
        by_saving = sorted(
            patterns, key=lambda blocks: (len(blocks) - 1) * len(patterns[blocks]), reverse=True
        )
        chosen = [blocks for blocks in by_saving[: self._max_engines] if len(blocks) > 1]
        engine_of: dict[int, Engine] = {}
        for number, blocks in enumerate(chosen):
            engine = self._engine(f"pattern{number}", blocks, [calls[index] for index in patterns[blocks]])
            engine_of |= dict.fromkeys(patterns[blocks], engine)
        if not engine_of:
            return PassResult(program, False, "one engine a block")
        last_run = {run.call: run for run in program.runs()}
        instructions: list[Instruction] = []
        for instruction in program.instructions:
            if not isinstance(instruction, Run) or instruction.call not in engine_of:
                instructions.append(instruction)
            elif instruction is last_run[instruction.call]:
                call, engine = calls[instruction.call], engine_of[instruction.call]
                inputs = tuple(call.outside[name] for name in engine.inputs)
                outputs = tuple(
                    call.inside[name] if name in call.outputs else None for name in engine.outputs
                )
                instructions.append(Run(engine.name, instruction.call, inputs, outputs))
        fused = {engine.name: engine for engine in engine_of.values()}
        result = replace(program, engines=(*program.engines, *fused.values())).with_instructions(
            tuple(instructions)
        )
        before, after = sum(1 for _ in program.runs()), sum(1 for _ in result.runs())
        return PassResult(result, True, f"{before} runs became {after}, in {len(result.engines)} engines")

    def _engine(self, name: str, blocks: tuple[str, ...], calls: list[_FusedCall]) -> Engine:
        outputs = tuple(dict.fromkeys(tensor for call in calls for tensor in call.outputs))
        inputs = boundary(self._model, tuple(calls[0].outside), outputs)
        return Engine(name, blocks, inputs, outputs)


def _fused_call(program: Program, index: int) -> _FusedCall:
    engines = {engine.name: engine for engine in program.engines}
    runs = [run for run in program.runs() if run.call == index]
    inside: dict[str, str] = {}
    outside: dict[str, str] = {}
    for run in runs:
        engine = engines[run.engine]
        for tensor, value in zip(engine.inputs, run.inputs, strict=True):
            if inside.get(tensor) != value:
                outside[tensor] = value
        inside |= {t: v for t, v in zip(engine.outputs, run.outputs, strict=True) if v is not None}
    wanted = {call.noise_pred for call in program.calls}
    for instruction in program.instructions:
        if not (isinstance(instruction, Run) and instruction.call == index):
            wanted.update(reads(instruction))
    outputs = tuple(tensor for tensor, value in inside.items() if value in wanted)
    return _FusedCall(tuple(run.engine for run in runs), inside, outside, outputs)
