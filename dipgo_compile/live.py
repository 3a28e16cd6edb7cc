"""Progress bars for work whose length is known, on stderr: stdout is for results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol


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
