from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ranges import Case, make_case

from dipgo_compile.build import BuildOptions, build


@pytest.fixture(scope="session")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield from make_case("bk-sdm-small", (1, 3), tmp_path_factory.mktemp("unet"))


@pytest.fixture(scope="session")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield from make_case("dit", (2,), tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="session")
def wide_unet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield from make_case("bk-sdm-small", (1, 2, 3), tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def wide_dit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield from make_case("dit", (1, 2, 3), tmp_path_factory.mktemp("wide"))


SLOW = pytest.mark.slow  # the exporter takes seconds for each shape


@pytest.fixture(
    params=["unet", "dit", pytest.param("wide_unet", marks=SLOW), pytest.param("wide_dit", marks=SLOW)]
)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def alone(unet: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The U-Net's bundle for one of its shapes."""
    path = tmp_path_factory.mktemp("alone") / "alone.dipgo"
    build(unet.mask, model=unet.model, output=path, options=BuildOptions(images=3, height=8, width=12))
    return path
