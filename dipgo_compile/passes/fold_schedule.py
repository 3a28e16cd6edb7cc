"""fold_schedule: a combination of combinations becomes one.

A combination with a single reader, itself a combination, is substituted into that reader. In a run of calls
that compute nothing this leaves one update in place of all the scheduler's steps; in a chain of blocks that
reuse residuals, one sum, in which whatever is both added and subtracted cancels: exactly, the coefficients
being 1 and -1. Samples and noise predictions stay, because a host with a scheduler of its own supplies the
former and reads the latter.
"""

from __future__ import annotations

from collections import Counter

from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.program import Coefficient, Combine, Instruction, Program, Slice, Term, reads


class FoldSchedule(Pass):
    name = "fold_schedule"

    def __call__(self, program: Program) -> PassResult:
        before = sum(isinstance(instruction, Combine) for instruction in program.instructions)
        folding = True
        while folding:
            program, folding = _sweep(program)
        after = sum(isinstance(instruction, Combine) for instruction in program.instructions)
        return PassResult(program, after < before, f"{before} combinations folded into {after}")


def _sweep(program: Program) -> tuple[Program, bool]:
    readers = Counter(name for i in program.instructions for name in set(reads(i)))
    readers[program.output] += 1
    readers.update(name for call in program.calls for name in (call.sample, call.noise_pred) if name)
    known: dict[str, Combine] = {}  # combinations as folded so far
    folded: set[str] = set()
    instructions: list[Instruction] = []
    for instruction in program.instructions:
        if isinstance(instruction, Combine):
            terms: list[Term] = []
            for term in instruction.terms:
                inner = known.get(term.value)
                if inner and readers[term.value] == 1 and not term.view and _same_shape(program, inner):
                    terms += [Term(t.value, t.coefficient * term.coefficient, t.view) for t in inner.terms]
                    folded.add(term.value)
                else:
                    terms.append(term)
            instruction = Combine(_collect(terms), instruction.output)
            known[instruction.output] = instruction
        instructions.append(instruction)
    kept = tuple(i for i in instructions if not (isinstance(i, Combine) and i.output in folded))
    return program.with_instructions(kept), bool(folded)


def _same_shape(program: Program, inner: Combine) -> bool:
    """Whether the combination repeats nothing along the batch: only then can its terms stand in for it
    anywhere.
    """
    first = inner.terms[0]
    shape = list(program.specs[first.value].shape)
    for part in first.view:
        shape[part.axis] = part.stop - part.start
    return tuple(shape) == program.specs[inner.output].shape


def _collect(terms: list[Term]) -> tuple[Term, ...]:
    """Like terms added up; those that cancel out dropped, unless none is left."""
    total: dict[tuple[str, tuple[Slice, ...]], Coefficient] = {}
    for term in terms:
        key = (term.value, term.view)
        total[key] = total.get(key, Coefficient(0.0)) + term.coefficient
    sums = tuple(Term(value, coefficient, view) for (value, view), coefficient in total.items())
    return tuple(term for term in sums if term.coefficient != Coefficient(0.0)) or sums[:1]
