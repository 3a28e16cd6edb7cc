from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_pipeline import make_mask

from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load
from tests.families.tiny import save


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small to be worth a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("sd15", tmp_path_factory.mktemp("models") / "small", seed=0)


@pytest.fixture(scope="session")
def other_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    return save("sd15", tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def exported(pipeline: Path) -> Exported:
    """The pipeline's denoiser for one guided image, for the bundles that differ in their masks alone."""
    return Exported.of(load(str(pipeline)), BuildOptions())


@pytest.fixture(scope="session")
def mask(pipeline: Path) -> Mask:
    return make_mask(str(pipeline), "DDIMScheduler", ("11111", "00000", "10011", "00000"))


@pytest.fixture(scope="session")
def bundle(mask: Mask, exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(mask, output=tmp_path_factory.mktemp("bundles") / "small.dipgo", exported=exported).path


@pytest.fixture(scope="session")
def split_bundle(mask: Mask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "split.dipgo"
    return build(mask, output=output, options=BuildOptions(split_guidance=True)).path


@pytest.fixture(scope="session")
def stochastic_bundle(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without guidance, two images at once, and a scheduler that draws noise."""
    mask = make_mask(str(pipeline), "EulerAncestralDiscreteScheduler", ("11111", "00000", "00011"))
    output = tmp_path_factory.mktemp("bundles") / "stochastic.dipgo"
    return build(mask, output=output, options=BuildOptions(images=2, guidance=False)).path


@pytest.fixture(scope="session")
def wrong_bundle(mask: Mask, other_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights are not those of the model that the reference loads."""
    wrong = replace(mask, model=replace(mask.model, source=str(other_pipeline)))
    return build(wrong, output=tmp_path_factory.mktemp("bundles") / "wrong.dipgo").path
