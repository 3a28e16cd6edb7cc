"""Progress of a command that works in named steps, on stderr: stdout is for results."""

from __future__ import annotations

import sys
import time
from types import TracebackType

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
