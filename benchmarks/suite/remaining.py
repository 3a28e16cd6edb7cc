"""What a result file still lacks, so that a stopped run goes on where it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.scenarios import Case, Turn
from benchmarks.suite.options import Footprint
from benchmarks.suite.turns import names_of

Json = dict[str, Any]


@dataclass(frozen=True)
class Missing:
    """What of a case was not measured yet, or failed. ``footprint``: as it is to be measured; None is not
    at all.
    """

    turns: tuple[Turn, ...]
    footprint: Footprint | None
    profile: bool
    operators: bool

    @classmethod
    def of(cls, case: Case, found: Json, footprint: Footprint) -> Missing:
        whole = [
            taken for taken in found.get("turns", []) if not any("failed" in row for row in taken["rows"])
        ]
        done = {names_of(taken) for taken in whole}
        return cls(
            turns=tuple(turn for turn in case.turns if turn.rows not in done),
            footprint=footprint if case.footprint and not _measured(found, footprint) else None,
            profile=case.profile and "profile" not in found,
            operators=case.profile and "operators" not in found,
        )

    @property
    def timed(self) -> bool:
        """Whether rows are to be timed, or loaded."""
        return bool(self.turns) or self.footprint is not None

    @property
    def steps(self) -> int:
        """How many steps of work it is, for the progress bar."""
        steps = sum(len(turn.rows) * (1 + turn.repeats) for turn in self.turns)
        if self.footprint is not None:
            steps += 1 + self.footprint.loads + len(self.footprint.peaks)
        builds = (self.timed or self.operators) + self.profile
        return steps + builds + self.operators + self.profile


def _measured(found: Json, footprint: Footprint) -> bool:
    peaks = found.get("footprint", {}).get("peaks", [])
    return len(peaks) >= len(footprint.peaks) and not any("failed" in peak for peak in peaks)
