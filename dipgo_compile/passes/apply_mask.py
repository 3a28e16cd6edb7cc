"""apply_mask: a reused block is not run.

Under ``output`` reuse its consumers read what it computed last. Under ``residual`` reuse they read a
combination, its input now plus what it last added to it:

    out@now = in@now + out@then - in@then

``in@now`` may be a combination itself, of the reused block before. In a chain of blocks that were computed
in the same call, each one's output then is the next one's input then, and ``fold_schedule`` leaves one
combination of three terms for all of them.

Under split guidance both halves follow the same row, and each reuses what it computed itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dipgo_compile.mask import Mask
from dipgo_compile.masks.checks import no_residual
from dipgo_compile.passes.base import Pass, PassResult, rename
from dipgo_compile.program import Block, BlockGraph, Coefficient, Combine, Instruction, Program, Run, Term


class ApplyMask(Pass):
    """Expects the program as ``unroll`` leaves it: one engine a block, values named ``tensor@call``.

    Raises MaskError when residuals are to be reused of blocks that have none.
    """

    name = "apply_mask"

    def __init__(self, mask: Mask, graph: BlockGraph) -> None:
        column = {scope: i for i, scope in enumerate(mask.blocks)}
        self._column: Mapping[str, int] = {
            block.name: column[block.scope] for block in graph.blocks if block.scope in column
        }
        self._keep = mask.keep
        blocks = [block for block in graph.blocks if block.scope in column]
        self._adds_to = _residual_inputs(blocks) if mask.reuse == "residual" else {}

    def __call__(self, program: Program) -> PassResult:
        latest: dict[tuple[str, str | None], Run] = {}  # engine and half -> the last run that is kept
        older: dict[str, str] = {}  # what a reused block would have computed -> the value in its place
        kept: list[Instruction] = []
        deleted = 0
        for instruction in program.instructions:
            instruction = rename(instruction, older)
            if not isinstance(instruction, Run) or instruction.engine not in self._column:
                kept.append(instruction)
            elif self._keep[instruction.call][self._column[instruction.engine]]:
                latest[instruction.engine, instruction.half] = instruction
                kept.append(instruction)
            else:
                deleted += 1
                then = latest[instruction.engine, instruction.half]
                if instruction.engine in self._adds_to:
                    kept.append(_residual(instruction, then, self._adds_to[instruction.engine]))
                else:
                    pairs = zip(instruction.outputs, then.outputs, strict=True)
                    older |= {new: old for new, old in pairs if new is not None and old is not None}
        calls = tuple(
            replace(call, noise_preds=tuple(older.get(name, name) for name in call.noise_preds))
            for call in program.calls
        )
        result = replace(program, calls=calls).with_instructions(tuple(kept))
        return PassResult(result, deleted > 0, f"{deleted} reused block runs deleted")


def _residual(now: Run, then: Run, place: int) -> Combine:
    """What stands for the reused run ``now``: its input at ``place``, plus what ``then`` added to its own."""
    (output,), (computed,) = now.outputs, then.outputs
    assert output is not None and computed is not None  # unroll names all outputs
    terms = ((now.inputs[place], 1.0), (computed, 1.0), (then.inputs[place], -1.0))
    return Combine(tuple(Term(value, Coefficient(factor)) for value, factor in terms), output)


def _residual_inputs(blocks: Sequence[Block]) -> dict[str, int]:
    """For each block, which of its inputs it adds to. Raises MaskError, naming all blocks without one."""
    without = [block.name for block in blocks if block.adds_to is None]
    if without:
        raise no_residual(without)
    return {block.name: block.inputs.index(block.adds_to) for block in blocks if block.adds_to is not None}
