from __future__ import annotations

from pathlib import Path

import pytest
from small_pipelines import make_mask, save_dit, save_stable_diffusion

from dipgo_compile.build import BuildOptions, build
from dipgo_compile.mask import Mask


@pytest.fixture(scope="session")
def stable_diffusion(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = repository / "models" / "tiny-sd" / "tokenizer"
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "small-sd", tokenizer)


@pytest.fixture(scope="session")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dit(tmp_path_factory.mktemp("models") / "small-dit")


@pytest.fixture(scope="session")
def pruned_mask(stable_diffusion: Path) -> Mask:
    """With a scheduler that draws noise of its own."""
    return make_mask(stable_diffusion, "EulerAncestralDiscreteScheduler", ((), (0, 2), (0, 1, 2, 3, 4), (1,)))


@pytest.fixture(scope="session")
def pruned_bundle(pruned_mask: Mask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images at once."""
    output = tmp_path_factory.mktemp("bundles") / "pruned.dipgo"
    return build(pruned_mask, output=output, options=BuildOptions(images=2, pipeline=True)).path


@pytest.fixture(scope="session")
def split_bundle(pruned_mask: Mask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "split.dipgo"
    options = BuildOptions(images=2, pipeline=True, split_guidance=True)
    return build(pruned_mask, output=output, options=options).path


@pytest.fixture(scope="session")
def dit_bundle(dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For OpenVINO, in bfloat16 where the processor has it."""
    ov = pytest.importorskip("openvino")
    has_bf16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    output = tmp_path_factory.mktemp("bundles") / "dit.dipgo"
    mask = make_mask(dit, "DDIMScheduler", ((), (1,), (0,)))
    options = BuildOptions(backend="openvino", precision="bf16" if has_bf16 else "fp32", pipeline=True)
    return build(mask, output=output, options=options).path
