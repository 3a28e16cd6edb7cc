"""What is left of a program at guidance scale 1, where a prediction is the conditional one.

Guidance adds ``(1 - g) * uncond + g * cond``. At ``g = 1`` the coefficient of ``uncond`` is exactly 0 in
every combination, also in those that ``fold_schedule`` made: its two parts are products and sums of the same
numbers, with opposite signs. Terms with such a coefficient are left out, and then whatever the latents no
longer depend on. Of a plan with split guidance that is the whole unconditional half, half of all the work; of
one that computes both halves in one batch, only terms. What isn't computed can't do harm: an infinity or NaN
there, which a factor of 0 would not silence, changes nothing.

Every value keeps the place that the memory plan gave it: it is read and written at fewer instructions than
planned, never at others. A host with guidance of its own reads every prediction and executes everything.
"""

from __future__ import annotations

from dipgo_compile.program import Combine, Instruction, Program, reads, writes

SCALE = 1.0


def unguided(program: Program) -> tuple[Instruction | None, ...]:
    """For each instruction, what remains of it at guidance scale 1; None: nothing. Without guidance, that is
    everything.
    """
    combines = [instruction for instruction in program.instructions if isinstance(instruction, Combine)]
    if not any(term.coefficient.guidance for combine in combines for term in combine.terms):
        return program.instructions
    live = {program.output}
    left: list[Instruction | None] = []
    for instruction in reversed(program.instructions):
        kept = _without_zeros(instruction) if live.intersection(writes(instruction)) else None
        if kept is not None:
            live.update(reads(kept))
        left.append(kept)
    return tuple(reversed(left))


def _without_zeros(instruction: Instruction) -> Instruction:
    """The first term stays where all would go: a combination has one."""
    if not isinstance(instruction, Combine):
        return instruction
    terms = tuple(term for term in instruction.terms if term.coefficient.at(SCALE) != 0.0)
    if len(terms) == len(instruction.terms):
        return instruction
    return Combine(terms or instruction.terms[:1], instruction.output)
