"""The errors a user can meet.

Each says what went wrong, where, what was available instead and how to mend it. The command line prints the
message and leaves with ``exit_code``; a traceback is for bugs only.
"""

from __future__ import annotations

from collections.abc import Iterable


class DipgoError(Exception):
    """Base of all expected errors. ``exit_code`` is the process's exit status."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        available: Iterable[object] | None = None,
        mend: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.available = None if available is None else tuple(str(item) for item in available)
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.available is not None:
            lines.append(f"  available: {', '.join(self.available) or 'nothing'}")
        if self.mend is not None:
            lines.append(f"  to mend it: {self.mend}")
        return "\n".join(lines)


class MaskError(DipgoError):
    """A mask that is malformed, or made for another model or schedule."""

    exit_code = 3


class ModelError(DipgoError):
    """A model that cannot be found, loaded or understood."""

    exit_code = 4


class ScheduleError(DipgoError):
    """A scheduler, or an option of one, that is not a linear update."""

    exit_code = 5


class GraphError(DipgoError):
    """An ONNX graph that cannot be cut into the asked-for blocks."""

    exit_code = 6


class CompileError(DipgoError):
    """A pass that failed or left an invalid program behind: a bug in the compiler, not in the input."""

    exit_code = 7


class BundleError(DipgoError):
    """A bundle that is missing, truncated, altered or of an unknown version, or that cannot be written."""

    exit_code = 8


class BackendError(DipgoError):
    """An execution provider that is missing or that refuses an engine."""

    exit_code = 9


class InputError(DipgoError, ValueError):
    """A run-time argument of the wrong name, shape or dtype."""

    exit_code = 10


class ParityError(DipgoError):
    """Results further from the reference than the tolerance allows."""

    exit_code = 11
