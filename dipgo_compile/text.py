"""Programs and plans as stable text, for people and for golden tests.

One instruction a line; names as in the program, engines and blocks by name, coefficients to six digits:

    0  sample@0 = latents
    1  noise_pred@0 = pattern0(sample@0, encoder_hidden_states, 14 constants)  # call 0
    2  latents@1 = 1.06 * latents + (0.5 - 0.5 g) * noise_pred@0[0:1] + ...

Under split guidance a run says its half, too: ``# call 0, uncond``.
"""

from __future__ import annotations

from collections.abc import Iterator

from dipgo_compile.plan import Plan
from dipgo_compile.program import PROLOGUE, Coefficient, Combine, Engine, Instruction, Program, Run, Term


def program_text(program: Program) -> str:
    """The whole program. Engines list their blocks; a run gives its constants only by number."""
    return "\n".join(_program_lines(program)) + "\n"


def plan_text(plan: Plan) -> str:
    """The program, and where every value lives in the arena."""
    lines = [*_program_lines(plan.program), "", f"arena {plan.memory.arena_bytes} bytes"]
    lines.append(f"naive {plan.memory.naive_bytes} bytes")
    for name, place in sorted(
        plan.memory.allocations.items(), key=lambda item: (item[1].first, item[1].offset)
    ):
        end = place.offset + place.nbytes
        lines.append(f"  {place.offset:>10} .. {end:<10} live {place.first:>4} .. {place.last:<4} {name}")
    return "\n".join(lines) + "\n"


def _program_lines(program: Program) -> Iterator[str]:
    for name in program.inputs:
        spec = program.specs[name]
        yield f"input {name}: {spec.dtype}[{', '.join(map(str, spec.shape))}]"
    nbytes = sum(data.nbytes for data in program.constants.values())
    yield f"constants: {len(program.constants)}, {nbytes} bytes"
    for engine in program.engines:
        yield f"engine {engine.name}: {_blocks(engine)}"
    width = len(str(len(program.instructions)))
    for index, instruction in enumerate(program.instructions):
        yield f"{index:>{width}}  {_instruction(program, instruction)}"
    yield f"output {program.output}"


def _blocks(engine: Engine) -> str:
    return " ".join(engine.blocks)


def _instruction(program: Program, instruction: Instruction) -> str:
    if isinstance(instruction, Combine):
        return f"{instruction.output} = {_sum(instruction)}"
    return _run(program, instruction)


def _run(program: Program, run: Run) -> str:
    outputs = ", ".join(name or "_" for name in run.outputs)
    values = [name for name in run.inputs if name not in program.constants]
    constants = len(run.inputs) - len(values)
    if constants:
        values.append(f"{constants} constant{'s' * (constants > 1)}")
    call = "prologue" if run.call == PROLOGUE else f"call {run.call}"
    half = "" if run.half is None else f", {run.half}"
    return f"{outputs} = {run.engine}({', '.join(values)})  # {call}{half}"


def _sum(combine: Combine) -> str:
    return " + ".join(_term(term) for term in combine.terms)


def _term(term: Term) -> str:
    ranges = {part.axis: f"{part.start}:{part.stop}" for part in term.view}
    view = f"[{', '.join(ranges.get(axis, ':') for axis in range(max(ranges) + 1))}]" if ranges else ""
    if term.coefficient == Coefficient(1.0):
        return f"{term.value}{view}"
    return f"{_coefficient(term.coefficient)} * {term.value}{view}"


def _coefficient(coefficient: Coefficient) -> str:
    if not coefficient.guidance:
        return f"{coefficient.constant:.6g}"
    if not coefficient.constant:
        return f"{coefficient.guidance:.6g} g"
    sign = "+" if coefficient.guidance > 0 else "-"
    return f"({coefficient.constant:.6g} {sign} {abs(coefficient.guidance):.6g} g)"
