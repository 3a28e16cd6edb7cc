"""fold_schedule: a combination of combinations becomes one.

A combination is substituted into another that reads it, when nobody else does or when it makes that one
shorter. In a run of calls that compute nothing this leaves one update in place of all the scheduler's steps;
in a chain of blocks that reuse residuals, one sum, in which whatever is both added and subtracted cancels:
exactly, the coefficients being 1 and -1. Samples and noise predictions stay, because a host with a scheduler
of its own supplies the former and reads the latter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.program import Coefficient, Combine, Instruction, Program, Slice, Term, reads


class FoldSchedule(Pass):
    name = "fold_schedule"

    def __call__(self, program: Program) -> PassResult:
        folded = program
        while (shorter := _sweep(folded)) != folded.instructions:
            folded = program.with_instructions(shorter)
        before, after = (
            sum(isinstance(instruction, Combine) for instruction in instructions)
            for instructions in (program.instructions, folded.instructions)
        )
        modified = folded.instructions != program.instructions
        return PassResult(folded, modified, f"{before} combinations folded into {after}")


def _sweep(program: Program) -> tuple[Instruction, ...]:
    readers = _readers(program, program.instructions)
    known: dict[str, Combine] = {}  # combinations as folded so far
    instructions: list[Instruction] = []
    for instruction in program.instructions:
        if isinstance(instruction, Combine):
            terms = _collect(instruction.terms)
            for term in terms:
                inner = known.get(term.value)
                if inner and term in terms and not term.view and _same_shape(program, inner):
                    substituted = _substituted(terms, term, inner)
                    if readers[term.value] == 1 or len(substituted) < len(terms):
                        terms = substituted
            instruction = known[instruction.output] = Combine(terms, instruction.output)
        instructions.append(instruction)
    unread = readers.keys() - _readers(program, instructions).keys()
    return tuple(i for i in instructions if not (isinstance(i, Combine) and i.output in unread))


def _substituted(terms: tuple[Term, ...], term: Term, inner: Combine) -> tuple[Term, ...]:
    at = terms.index(term)
    scaled = (Term(t.value, t.coefficient * term.coefficient, t.view) for t in inner.terms)
    return _collect((*terms[:at], *scaled, *terms[at + 1 :]))


def _readers(program: Program, instructions: Sequence[Instruction]) -> Counter[str]:
    """How many read each value: instructions, and whoever takes the result or hosts the calls."""
    readers = Counter(name for instruction in instructions for name in set(reads(instruction)))
    readers[program.output] += 1
    readers.update(name for call in program.calls for name in (call.sample, *call.noise_preds) if name)
    return readers


def _same_shape(program: Program, inner: Combine) -> bool:
    """Whether the combination repeats nothing along the batch: only then can its terms stand in for it
    anywhere.
    """
    first = inner.terms[0]
    shape = list(program.specs[first.value].shape)
    for part in first.view:
        shape[part.axis] = part.stop - part.start
    return tuple(shape) == program.specs[inner.output].shape


def _collect(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Like terms added up; those that cancel out dropped, unless none is left."""
    total: dict[tuple[str, tuple[Slice, ...]], Coefficient] = {}
    for term in terms:
        key = (term.value, term.view)
        total[key] = total.get(key, Coefficient(0.0)) + term.coefficient
    sums = tuple(Term(value, coefficient, view) for (value, view), coefficient in total.items())
    return tuple(term for term in sums if term.coefficient != Coefficient(0.0)) or sums[:1]
