from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy

from dipgo_compile.bundle import write_bundle
from dipgo_compile.runtime import Runtime


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written toy bundle; read it, don't change it."""
    path = tmp_path_factory.mktemp("pristine") / "toy.dipgo"
    write_bundle(path, toy.plan(), toy.write_engines, toy.MASK)
    return path


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the toy bundle to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "toy.dipgo"))


@pytest.fixture(scope="session")
def runtime(pristine: Path) -> Iterator[Runtime]:
    with Runtime.load(pristine, threads=1) as loaded:
        yield loaded
