"""Progress of a command, on stderr, because stdout is for results: named steps with the seconds of each, and
bars for work whose length is known.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Protocol

import click


class Steps:
    """Call it with the name of each step as that begins; it prints the time of the step before.

    On a terminal the running step is shown too, and overwritten when done.
    """

    def __init__(self) -> None:
        self._name: str | None = None
        self._since = 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, name: str) -> None:
        self._finish()
        self._name, self._since = name, time.perf_counter()
        if self._live:
            click.echo(f"  {name} ...", nl=False, err=True)

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        elif self._live:
            click.echo(err=True)  # the error goes below the step that met it

    def _finish(self) -> None:
        if self._name is not None:
            start = "\r" if self._live else ""
            seconds = time.perf_counter() - self._since
            click.echo(f"{start}  {self._name:<24}{seconds:7.1f} s", err=True)
            self._name = None


class Count(Protocol):
    """Told how much is done, of how much, and of what where that changes."""

    def __call__(self, done: int, total: int, what: str | None = None) -> None: ...


@contextmanager
def counter(description: str) -> Iterator[Count]:
    """A bar that is told ``(done, total)``. It vanishes when done, and isn't shown where nobody looks, or
    where the package ``rich`` is missing: machines that only run bundles don't have it.
    """
    if find_spec("rich") is None:
        yield lambda done, total, what=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)

        def count(done: int, total: int, what: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield count
