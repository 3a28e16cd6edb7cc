"""Shared by all tests: only what more than one directory needs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)  # the operators are small: more threads only wait for each other

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout; ``models/tiny-sd`` is in it."""
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def exporter_untraced() -> Iterator[None]:
    """Coverage's tracer sees every line of Python: torch's exporter, which has no line of ours, would take
    more than twice the time under it.
    """
    export = torch.onnx.export

    @functools.wraps(export)
    def untraced(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return export(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", untraced)
        yield
