"""A command's result: text for people, JSON for scripts that ask for it with ``--json``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dipgo_compile.errors import InputError

STDOUT = "-"


def json_option(about: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option ``--json FILE``, which the command gets as ``result``, a ``Result``."""
    return click.option(
        "--json",
        "result",
        metavar="FILE",
        callback=_prepare,
        help=f"Write {about} as JSON; {STDOUT} is stdout, which then holds nothing else.",
    )


class Result:
    """Where a command's result goes. A file appears when it is whole; until then, an older one stays."""

    def __init__(self, file: str | None) -> None:
        """Raises InputError for a place that can't be written, before any work is done."""
        self._file = file
        self._staging: Path | None = None
        if file is None or file == STDOUT:
            return
        path = Path(file)
        if path.exists() and not path.is_file() and not path.is_dir():
            return  # a device or a pipe: it can't be replaced, and is written to
        try:
            if path.is_dir():
                raise IsADirectoryError(0, "it is a directory")
            staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            staging.touch()
            self._staging = staging
        except OSError as error:
            raise InputError(
                f"cannot write the result: {error.strerror}", where=path, mend="choose another place"
            ) from error

    def report(self, facts: dict[str, Any], text: str) -> None:
        """Print ``text``, and write ``facts`` where asked."""
        document = json.dumps(facts, indent=2) + "\n"
        if self._file == STDOUT:
            click.echo(document, nl=False)
            return
        if self._file is not None:
            (self._staging or Path(self._file)).write_text(document, encoding="utf-8")
            if self._staging is not None:
                self._staging.replace(self._file)
        click.echo(text)

    def close(self) -> None:
        """Leave nothing behind of a result that never came."""
        if self._staging is not None:
            self._staging.unlink(missing_ok=True)


def _prepare(context: click.Context, option: click.Parameter, file: str | None) -> Result:
    result = Result(file)
    context.call_on_close(result.close)
    return result
