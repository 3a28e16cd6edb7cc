"""Shared by all tests: only what more than one directory needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the operators are small: more threads only wait for each other

REPOSITORY = Path(__file__).parents[1]
UNTRACED = (
    "compiler/test_parity",
    "compiler/test_residual",
    "compiler/test_split_guidance",
    "cpp/",
    "families/test_families",
    "models/",
    "pipelines/",
    "trainer/",
)
"""Tests that go from end to end, again and again: of ``dipgo_compile`` they reach what others reach, too."""


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout; ``models/tiny-sd`` is in it."""
    return REPOSITORY


@contextmanager
def untraced() -> Iterator[None]:
    """Coverage's tracer sees every line of Python, also of torch, onnx-ir and onnxscript, which take twice
    the time under it.
    """
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Runs the tests of ``UNTRACED``, and the fixtures they are first to ask for, without the tracer."""
    place = item.path.relative_to(REPOSITORY / "tests").as_posix()
    with untraced() if place.startswith(UNTRACED) else nullcontext():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def exporter_untraced() -> Iterator[None]:
    """No line of torch's exporter is ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", untraced()(torch.onnx.export))
        yield
