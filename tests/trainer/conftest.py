from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from dipgo_trainer.cascade import Topology
from dipgo_trainer.topology import topology_of

from dipgo_compile.models.source import Model
from tests.families.tiny import make


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small to be worth a second thread, and sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def unet() -> Model:
    return make("sd15")


@pytest.fixture(scope="package")
def dit() -> Model:
    return make("dit")


@pytest.fixture(scope="package")
def unet_topology(unet: Model) -> Topology:
    return topology_of(unet, unet.blocks())


@pytest.fixture(params=["unet", "dit"])
def model(request: pytest.FixtureRequest) -> Model:
    found: Model = request.getfixturevalue(request.param)
    return found
