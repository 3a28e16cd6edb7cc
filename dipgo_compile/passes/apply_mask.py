"""apply_mask: a reused block is not computed; its consumers read what it computed last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dipgo_compile.mask import Mask
from dipgo_compile.passes.base import Pass, PassResult, rename
from dipgo_compile.program import BlockGraph, Instruction, Program, Run


class ApplyMask(Pass):
    """Expects the program as ``unroll`` leaves it: one engine a block, values named ``tensor@call``."""

    name = "apply_mask"

    def __init__(self, mask: Mask, graph: BlockGraph) -> None:
        column = {scope: i for i, scope in enumerate(mask.blocks)}
        self._column: Mapping[str, int] = {
            block.name: column[block.scope] for block in graph.blocks if block.scope in column
        }
        self._keep = mask.keep

    def __call__(self, program: Program) -> PassResult:
        latest: dict[str, tuple[str | None, ...]] = {}  # engine -> what it computed last
        older: dict[
            str, str
        ] = {}  # the value a reused block would have computed -> the one that stands for it
        kept: list[Instruction] = []
        deleted = 0
        for instruction in program.instructions:
            instruction = rename(instruction, older)
            if not isinstance(instruction, Run) or instruction.engine not in self._column:
                kept.append(instruction)
            elif self._keep[instruction.call][self._column[instruction.engine]]:
                latest[instruction.engine] = instruction.outputs
                kept.append(instruction)
            else:
                pairs = zip(instruction.outputs, latest[instruction.engine], strict=True)
                older |= {new: old for new, old in pairs if new is not None and old is not None}
                deleted += 1
        calls = tuple(
            replace(call, noise_pred=older.get(call.noise_pred, call.noise_pred)) for call in program.calls
        )
        result = replace(program, calls=calls).with_instructions(tuple(kept))
        return PassResult(result, deleted > 0, f"{deleted} reused block runs deleted")
