"""The steps of a build: announced as they begin, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Progress = Callable[[str], None]
"""Told the name of every step as it begins."""
Item = TypeVar("Item")


class Clock:
    """Times the steps of a build and announces them, each with the shape it is about."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._seconds: dict[str, float] = {}
        self._step, self._of = "", ""
        self._since = 0.0

    def each(self, shapes: Sequence[Item]) -> Iterator[Item]:
        """The shapes in turn; until the next, steps are announced as this one's."""
        for number, shape in enumerate(shapes, 1):
            self._of = f" ({number} of {len(shapes)})" if len(shapes) > 1 else ""
            yield shape
        self._of = ""

    def start(self, step: str) -> None:
        """The step before ends here."""
        self.stop()
        self._step, self._since = step, time.perf_counter()
        if self._progress is not None:
            self._progress(step + self._of)

    def stop(self) -> dict[str, float]:
        """The last step ends here. Answers the seconds of each, all shapes together."""
        if self._step:
            spent = time.perf_counter() - self._since
            self._seconds[self._step] = self._seconds.get(self._step, 0.0) + spent
            self._step = ""
        return self._seconds
