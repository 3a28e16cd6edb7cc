"""Random masks in OpenVINO, against the same oracle."""

from __future__ import annotations

import pytest
from reference import assert_parity, make_mask, options, random_mask
from test_parity import random_rows

from dipgo_compile.build import Exported
from dipgo_compile.bundle import open_bundle
from dipgo_compile.measure.comparison import TOLERANCES
from dipgo_compile.models.base import GRANULARITIES
from dipgo_compile.passes.fuse import STRATEGIES
from dipgo_compile.program import Combine, is_signed_sum
from dipgo_compile.rewrites import apply, default_rewrites
from tests.families.tiny import make

ov = pytest.importorskip("openvino")
BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("seed", range(6))
def test_random_mask(seed, tiny_sd, tmp_path):
    """fp32, at the tolerance of ONNX Runtime."""
    blocks = tiny_sd.model.blocks(("block", "layer")[seed % 2])
    mask = make_mask(
        tiny_sd.model, blocks, ("ddim", "plms")[seed // 2 % 2], 6, random_rows(len(blocks), seed)
    )
    chosen = options(backend="openvino", fuse=STRATEGIES[seed % len(STRATEGIES)])
    assert_parity(tiny_sd, mask, chosen, tmp_path / "m.dipgo", seed)


@pytest.fixture(scope="module")
def dit() -> Exported:
    """A tiny transformer for one guided image, as ``build`` compiles it for OpenVINO."""
    given = Exported.of(make("dit"), options(backend="openvino"))
    apply(given.onnx, default_rewrites("openvino"))
    return given


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_residuals_are_reused(granularity, dit, tmp_path):
    """Between OpenVINO's engines, whose memory is the process's own, the host sums them."""
    mask = random_mask(dit.model, granularity, "plms", "residual", 1)
    assert_parity(dit, mask, options(backend="openvino"), tmp_path / "m.dipgo", 1)
    instructions = open_bundle(tmp_path / "m.dipgo").plan.program.instructions
    sums = [i for i in instructions if isinstance(i, Combine) and len(i.terms) > 1 and is_signed_sum(i)]
    assert sums


@pytest.mark.skipif(not BF16, reason="this processor has no bfloat16")
@pytest.mark.parametrize("seed", range(3))
def test_random_mask_in_bf16(seed, tiny_sd, tmp_path):
    blocks = tiny_sd.model.blocks()
    mask = make_mask(tiny_sd.model, blocks, "ddim", 6, random_rows(len(blocks), seed))
    accepted = TOLERANCES["bf16"]
    assert_parity(
        tiny_sd,
        mask,
        options(backend="openvino", precision="bf16"),
        tmp_path / "m.dipgo",
        seed,
        accepted.noise_pred,
        accepted.latents,
    )
