from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from building import REPOSITORY, NotBuildable, build_directory
from libdipgo import Library

from dipgo_compile.bundle import write_bundle
from tests.runtime import toy

sys.path.append(str(REPOSITORY / "tests" / "runtime"))  # its toys import each other


@pytest.fixture(scope="session")
def built() -> Path:
    """The directory with the library and its programs."""
    try:
        return build_directory()
    except NotBuildable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def library(built: Path) -> Library:
    return Library(built / "libdipgo.so")


@pytest.fixture(scope="session")
def dipgo_run(built: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``dipgo-run`` with some arguments."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [str(built / "dipgo-run"), *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True)

    return run


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy of tests/runtime; read it, don't change it."""
    path = tmp_path_factory.mktemp("cpp") / "toy.dipgo"
    write_bundle(path, toy.plan(), toy.write_engines, toy.MASK)
    return path
