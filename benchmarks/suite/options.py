"""What of a suite is measured: all of it, or a quick run, or the cases and rows that are asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.scenarios import Case
from dipgo_compile.errors import InputError

MEMORY_MODES = ("low", "balanced", "fast")
SLOW = ("torch", "torch-compile")  # left out of quick runs, in which the SuperNet stands for PyTorch


@dataclass(frozen=True)
class Footprint:
    """How a case's footprint is measured: ``loads`` are timed, and the peak memory of ``peaks``: rows, a
    plan with its memory mode.
    """

    loads: int
    peaks: tuple[tuple[str, str | None], ...]


FOOTPRINT = Footprint(3, (*(("plan", mode) for mode in MEMORY_MODES), ("dense", None), ("torch", None)))
QUICK_FOOTPRINT = Footprint(1, (("plan", "balanced"), ("dense", None)))


@dataclass(frozen=True)
class Options:
    """``cases``: names or their beginnings, ``rows``: names; None is all. With ``rows``, only turns in which
    one of them takes part are measured. ``quick``: fewer cases, without eager and compiled PyTorch, fewer
    repeats and memory modes, and one export a subject.
    """

    threads: int | None = None
    quick: bool = False
    cases: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None

    @property
    def footprint(self) -> Footprint:
        return QUICK_FOOTPRINT if self.quick else FOOTPRINT

    def chosen(self, cases: tuple[Case, ...]) -> tuple[Case, ...]:
        """What is left of the cases. Raises InputError for a name that none of them has."""
        if self.quick:
            cases = tuple(_quick(case) for case in cases if case.quick)
        rows = {row for case in cases for turn in case.turns for row in turn.rows}
        for name in self.cases or ():
            if not any(case.name.startswith(name) for case in cases):
                raise InputError(f"there is no case {name!r}", available=[case.name for case in cases])
        for name in self.rows or ():
            if name not in rows:
                raise InputError(f"there is no row {name!r}", available=sorted(rows))
        if self.cases is not None:
            cases = tuple(case for case in cases if case.name.startswith(self.cases))
        if self.rows is not None:
            asked = set(self.rows)
            cases = tuple(
                replace(case, turns=turns, footprint=False, profile=False)
                for case in cases
                if (turns := tuple(turn for turn in case.turns if asked & {*turn.rows}))
            )
        return cases


def _quick(case: Case) -> Case:
    turns = tuple(
        replace(turn, rows=rows, repeats=min(turn.repeats, turn.quick_repeats))
        for turn in case.turns
        if turn.quick_repeats and len(rows := tuple(row for row in turn.rows if row not in SLOW)) > 1
    )
    subject = case.subject.quick() if case.subject else None
    return replace(case, turns=turns, profile=False, subject=subject)
