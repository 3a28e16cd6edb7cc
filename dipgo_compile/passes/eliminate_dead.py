"""eliminate_dead: what nobody reads is not computed.

Unlike a mask's cascade it never changes results: a block that is computed only to fill its cache stays, when
a later call reads that cache.
"""

from __future__ import annotations

from dataclasses import replace

from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.program import Instruction, Program, Run, reads, writes


class EliminateDead(Pass):
    name = "eliminate_dead"

    def __call__(self, program: Program) -> PassResult:
        # A host that brings its own scheduler reads every call's noise prediction.
        live = {program.output, *(name for call in program.calls for name in call.noise_preds)}
        kept: list[Instruction] = []
        outputs_dropped = 0
        for instruction in reversed(program.instructions):
            written = writes(instruction)
            if not live.intersection(written):
                continue
            if isinstance(instruction, Run):
                outputs = tuple(name if name in live else None for name in instruction.outputs)
                outputs_dropped += len(written) - sum(name is not None for name in outputs)
                instruction = replace(instruction, outputs=outputs)
            live |= set(reads(instruction))
            kept.append(instruction)
        kept.reverse()
        dropped = len(program.instructions) - len(kept)
        program = program.with_instructions(tuple(kept))
        needed = program.call_values()
        calls = tuple(
            replace(call, sample=call.sample if call.sample in needed else None) for call in program.calls
        )
        return PassResult(
            replace(program, calls=calls),
            dropped + outputs_dropped > 0,
            f"{dropped} instructions and {outputs_dropped} outputs that nobody reads dropped",
        )
