"""value_numbering: an instruction that repeats an earlier one on the same values *is* the earlier one.

So is a combination that only copies a value of the same shape. This alone finds that a call whose blocks are
all reused leaves the noise prediction as it was, so ``conv_out`` need not run.

Runs of the two halves of split guidance are never one, though those that read no condition, such as
``conv_in``, compute the same twice: a call would compute other blocks in one half than in the other, so that
halves could not share the engines that ``fuse`` makes, and the half that guidance scale 1 drops would compute
what the other reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dipgo_compile.passes.base import Pass, PassResult, rename
from dipgo_compile.program import Call, Coefficient, Instruction, Program, Run


class ValueNumbering(Pass):
    name = "value_numbering"

    def __call__(self, program: Program) -> PassResult:
        first: dict[object, Instruction] = {}
        same: dict[str, str] = {}
        kept: list[Instruction] = []
        for instruction in program.instructions:
            instruction = rename(instruction, same)
            copied = _copied(program, instruction)
            if copied is not None:
                same |= copied
                continue
            earlier = first.setdefault(_key(program, instruction), instruction)
            if earlier is instruction:
                kept.append(instruction)
            else:
                same |= _stands_for(instruction, earlier)
        calls = tuple(_renamed(call, same) for call in program.calls)
        result = replace(program, calls=calls, output=same.get(program.output, program.output))
        dropped = len(program.instructions) - len(kept)
        return PassResult(
            result.with_instructions(tuple(kept)), dropped > 0, f"{dropped} repeated instructions merged"
        )


def _copied(program: Program, instruction: Instruction) -> dict[str, str] | None:
    """The output of a plain copy, mapped to what it copies."""
    if isinstance(instruction, Run) or len(instruction.terms) != 1:
        return None
    (term,) = instruction.terms
    plain = term.coefficient == Coefficient(1.0) and not term.view
    if not plain or program.specs[term.value] != program.specs[instruction.output]:
        return None
    return {instruction.output: term.value}


def _key(program: Program, instruction: Instruction) -> object:
    if isinstance(instruction, Run):
        return (
            instruction.engine,
            instruction.half,
            instruction.inputs,
            tuple(name is None for name in instruction.outputs),
        )
    return (instruction.terms, program.specs[instruction.output])


def _stands_for(later: Instruction, earlier: Instruction) -> dict[str, str]:
    if isinstance(later, Run) and isinstance(earlier, Run):
        pairs = zip(later.outputs, earlier.outputs, strict=True)
        return {new: old for new, old in pairs if new is not None and old is not None}
    assert not isinstance(later, Run) and not isinstance(earlier, Run)
    return {later.output: earlier.output}


def _renamed(call: Call, same: Mapping[str, str]) -> Call:
    sample = None if call.sample is None else same.get(call.sample, call.sample)
    return Call(call.timestep, sample, tuple(same.get(name, name) for name in call.noise_preds))
