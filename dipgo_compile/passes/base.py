"""A pass takes a program and returns a new one, saying truthfully whether it changed anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from dipgo_compile.errors import CompileError, DipgoError
from dipgo_compile.plan import PassReport
from dipgo_compile.program import Combine, Instruction, Program, Run, Term
from dipgo_compile.verifier import verify_program


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass made. ``summary`` says in a few words what it did, for ``inspect``."""

    program: Program
    modified: bool
    summary: str = ""


class Pass(ABC):
    """One transformation of a program. It must not change what the program computes."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, program: Program) -> PassResult: ...


class Sequential:
    """Runs passes in order and verifies the program after each.

    Raises CompileError naming the pass that failed and those that ran before it.
    """

    def __init__(self, passes: Iterable[Pass]) -> None:
        self.passes = tuple(passes)

    def __call__(self, program: Program) -> tuple[Program, tuple[PassReport, ...]]:
        reports: list[PassReport] = []
        for step in self.passes:
            try:
                result = step(program)
                verify_program(result.program)
            except DipgoError as error:
                done = [report.name for report in reports]
                raise CompileError(
                    f"pass {step.name!r} failed: {error.what}",
                    where=f"after {', '.join(done) or 'no other pass'}",
                    mend=f"build with --disable-pass {step.name} and report it with the mask",
                ) from error
            program = result.program
            reports.append(PassReport(step.name, result.modified, result.summary))
        return program, tuple(reports)


def rename(instruction: Instruction, names: Mapping[str, str]) -> Instruction:
    """The instruction reading other values: those that ``names`` maps."""
    if isinstance(instruction, Run):
        return replace(instruction, inputs=tuple(names.get(name, name) for name in instruction.inputs))
    terms = tuple(Term(names.get(t.value, t.value), t.coefficient, t.view) for t in instruction.terms)
    return Combine(terms, instruction.output)
