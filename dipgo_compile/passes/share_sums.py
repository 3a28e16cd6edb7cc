"""share_sums: a sum of residuals that holds all terms of an earlier one reads that one instead.

``fold_schedule`` leaves sums of what runs have computed. Where calls reuse the same blocks they repeat:

    c@1 = a@1 + c@0 - a@0
    c@2 = x@2 + a@1 - x@1 + c@0 - a@0    becomes    x@2 - x@1 + c@1

A sum takes as long as memory takes to hand over its terms, so fewer of them are faster; and what is no longer
read frees its place in the arena earlier. No sum is added for that: each is written in what there is. Neither
a sample nor what a scheduler alone reads is read instead: a host with its own scheduler replaces them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.program import Coefficient, Combine, Instruction, Program, Term, is_signed_sum

Signs = Mapping[str, float]
"""The terms of a sum: 1 or -1 for each value."""


class ShareSums(Pass):
    name = "share_sums"

    def __call__(self, program: Program) -> PassResult:
        shareable = _sums(program) & program.call_values() - {call.sample for call in program.calls}
        holders: dict[str, list[Combine]] = {}  # by value, the earlier sums that it is a term of
        instructions: list[Instruction] = []
        before = after = 0
        for instruction in program.instructions:
            if isinstance(instruction, Combine) and instruction.output in shareable:
                shared = _shared(instruction, holders)
                for term in instruction.terms:
                    holders.setdefault(term.value, []).append(instruction)
                before, after = before + len(instruction.terms), after + len(shared.terms)
                instruction = shared
            instructions.append(instruction)
        summary = f"the {before} terms of residuals' sums became {after}" if before else "no residuals"
        return PassResult(program.with_instructions(tuple(instructions)), after < before, summary)


def _sums(program: Program) -> set[str]:
    """The values that are sums of whole values like themselves."""
    combines = [instruction for instruction in program.instructions if isinstance(instruction, Combine)]
    return {
        combine.output
        for combine in combines
        if is_signed_sum(combine)
        and not any(term.view for term in combine.terms)
        and {program.specs[term.value] for term in combine.terms} == {program.specs[combine.output]}
    }


def _shared(combine: Combine, holders: Mapping[str, list[Combine]]) -> Combine:
    """The same sum in fewer terms: the longest earlier sum goes in first, then the longest that is left."""
    terms: Signs = {term.value: term.coefficient.constant for term in combine.terms}
    while True:
        earlier = dict.fromkeys(held for value in terms for held in holders.get(value, ()))
        shorter = min(_readings(terms, earlier), key=len, default=terms)
        if len(shorter) == len(terms):
            return Combine(tuple(Term(v, Coefficient(sign)) for v, sign in terms.items()), combine.output)
        terms = shorter


def _readings(terms: Signs, earlier: Iterable[Combine]) -> Iterator[Signs]:
    """The sum with each of the earlier ones that it holds, or the negative of one, in place of its terms."""
    for held in earlier:
        signs = {term.value: term.coefficient.constant for term in held.terms}
        for sign in (1.0, -1.0):
            if all(terms.get(value) == sign * factor for value, factor in signs.items()):
                rest = {value: factor for value, factor in terms.items() if value not in signs}
                yield {**rest, held.output: sign}
