from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from dipgo_compile.bundle import MASK, WEIGHTS, open_bundle, write_bundle
from dipgo_compile.compare import compare
from dipgo_compile.errors import InputError, ModelError, ParityError
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import (
    CallDifference,
    Comparison,
    Tolerance,
    default_tolerance,
    max_abs_diff,
    relative_l2,
)
from tests.families.tiny import UNET, save

ONE = np.ones((2, 3), np.float32)


def test_max_abs_diff() -> None:
    other = ONE.copy()
    other[1, 2] = -1.5
    assert max_abs_diff(other, ONE) == 2.5
    assert max_abs_diff(ONE, ONE) == 0.0
    assert max_abs_diff(ONE[:1], ONE) == math.inf


def test_relative_l2() -> None:
    assert relative_l2(1.5 * ONE, ONE) == pytest.approx(
        0.5, abs=1e-12
    )  # exact in float64 but for the square root
    assert relative_l2(ONE, 0 * ONE) == math.inf
    assert relative_l2(0 * ONE, 0 * ONE) == 0.0
    assert relative_l2(ONE[:1], ONE) == math.inf


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(value: float) -> None:
    broken = ONE.copy()
    broken[0, 0] = value
    assert not max_abs_diff(broken, ONE) <= 1e9
    assert not max_abs_diff(broken, broken) <= 1e9
    assert not relative_l2(broken, ONE) <= 1e9


def comparison(*differences: float, latents: float = 0.0) -> Comparison:
    calls = tuple(CallDifference(i, 10.0 - i, True, value) for i, value in enumerate(differences))
    return Comparison("b.dipgo", "model", 0, None, 7.5, Tolerance(1e-3, 1e-3), calls, latents)


def test_a_comparison_passes_at_its_tolerance() -> None:
    found = comparison(0.0, 1e-3, latents=1e-3)
    assert found.passed
    found.check()


def test_the_first_failing_call_is_named() -> None:
    found = comparison(0.0, math.nan, 0.5)
    with pytest.raises(ParityError, match=r"2 of 3 .* call 1: nan"):
        found.check()
    assert found.to_json()["calls"][1]["max_abs_diff"] is None
    assert found.to_json()["passed"] is False


def test_latents_alone_can_fail() -> None:
    found = comparison(0.0, latents=2e-3)
    with pytest.raises(ParityError, match="final latents"):
        found.check()


def test_no_tolerance_is_made_up() -> None:
    with pytest.raises(InputError, match="int4"):
        default_tolerance("int4")


def test_a_right_bundle_agrees(bundle: Path) -> None:
    found = compare(bundle, threads=1)
    assert found.passed
    assert [call.computed for call in found.calls] == [True, False, True, False]
    assert found.guidance_scale == 7.5
    # Float32 in another order of additions: an exact zero everywhere would mean that nothing was compared.
    assert 0 < found.latents_relative_l2 < 1e-4


@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_split_guidance_agrees(split_bundle: Path, scale: float) -> None:
    """At scale 1 the plan leaves a half out; the reference computes it all the same."""
    found = compare(split_bundle, threads=1, guidance_scale=scale)
    assert found.passed
    assert 0 < found.latents_relative_l2 < 1e-4


def test_noise_draws_and_batches_agree_too(stochastic_bundle: Path) -> None:
    found = compare(stochastic_bundle, seed=3, threads=1)
    assert found.passed
    assert found.guidance_scale is None


def test_other_weights_are_found(wrong_bundle: Path, pipeline: Path) -> None:
    found = compare(wrong_bundle, source=str(pipeline), threads=1)
    assert not found.passed
    assert min(call.max_abs_diff for call in found.calls) > 1e-2
    assert found.latents_relative_l2 > 1e-2


def test_another_mask_is_found_at_the_call_that_differs(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    mask = Mask.load(bundle / MASK)
    keep = list(mask.keep)
    keep[2] = (True,) * len(mask.blocks)
    files = [name for name in opened.plan.files if name.endswith(".onnx") or name == WEIGHTS]
    changed = tmp_path / "changed.dipgo"
    write_bundle(
        changed,
        replace(opened.plan, files={}),
        lambda staging: [shutil.copy(bundle / name, staging) for name in files],
        replace(mask, keep=tuple(keep)).to_text(),
    )
    found = compare(changed, threads=1)
    assert found.failed_calls[0].call == 2


def test_another_architecture_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = save("sd15", tmp_path / "wider")
    UNet2DConditionModel(**{**UNET, "block_out_channels": (8, 32)}).save_pretrained(path / "unet")
    with pytest.raises(ModelError, match="architecture"):
        compare(bundle, source=str(path), threads=1)
