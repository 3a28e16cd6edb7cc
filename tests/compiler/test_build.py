"""From a mask to a bundle, and every way in which a mask may not fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from reference import TINY_SD, make_mask, options

from dipgo_compile.build import build, check, compile_plan
from dipgo_compile.errors import BackendError, InputError, MaskError, ModelError, ScheduleError
from dipgo_compile.mask import Mask
from dipgo_compile.text import plan_text


@pytest.fixture(scope="module")
def mask(tiny_sd) -> Mask:
    blocks = tiny_sd.model.blocks()
    return make_mask(tiny_sd.model, blocks, "ddim", 4, lambda calls: [[i % 2 == 0] * 9 for i in range(calls)])


def test_build_reports_each_step(mask, tmp_path):
    announced: list[str] = []
    report = build(mask, output=tmp_path / "m.dipgo", progress=announced.append)
    assert list(report.seconds) == announced
    assert announced[0] == "load the model" and announced[-1] == "pack the weights for this machine"
    assert report.plan.macs["kept"] * 2 == report.plan.macs["dense"]
    assert report.plan.program.calls_with_runs() == (0, 2)
    assert Mask.load(report.path / "mask.json") == mask


def test_builds_can_share_an_exported_model(mask, plain_tiny_sd, tmp_path):
    shared = [build(mask, output=tmp_path / f"{i}.dipgo", exported=plain_tiny_sd) for i in range(2)]
    own = build(mask, output=tmp_path / "own.dipgo")
    assert "export the denoiser" not in shared[0].seconds
    assert [plan_text(report.plan) for report in shared] == [plan_text(own.plan)] * 2
    with pytest.raises(InputError, match="exported for"):
        build(mask, output=tmp_path / "m.dipgo", exported=plain_tiny_sd, options=options(images=2))


def test_weights_are_stored_once(mask, plain_tiny_sd, tmp_path):
    """Engines of overlapping blocks share one file no larger than the weights themselves."""
    weights = sum(p.numel() * 4 for p in _denoiser().parameters())
    several = replace(
        mask, keep=(mask.keep[0], (False,) * 4 + (True,) * 5, mask.keep[0], (False,) * 8 + (True,))
    )
    report = build(several, output=tmp_path / "m.dipgo", exported=plain_tiny_sd)
    assert len(report.plan.program.engines) == 4  # three patterns and the prologue
    assert (report.path / "weights.bin").stat().st_size <= weights


@pytest.mark.parametrize("granularity", ["block", "layer"])
@pytest.mark.parametrize("fuse", ["none", "auto"])
def test_macs_are_counted_in_one_engine_each(granularity, fuse, tiny_sd):
    """What lies between layers is named after modules that hold layers, too."""
    blocks = tiny_sd.model.blocks(granularity)
    whole = make_mask(tiny_sd.model, blocks, "ddim", 2, lambda calls: [[True] * len(blocks)] * calls)
    schedule, how = check(whole, tiny_sd.model), options(fuse=fuse)
    plan = compile_plan(tiny_sd.model, tiny_sd.geometry, tiny_sd.onnx.clone(), whole, schedule, how)
    runs = Counter(run.engine for run in plan.program.runs())
    counted = sum(macs * runs[engine] for engine, macs in plan.engine_macs.items())
    assert counted == pytest.approx(plan.macs["dense"], rel=0.01)
    assert min(plan.engine_macs.values()) >= 0


def test_build_replaces_a_bundle(mask, plain_tiny_sd, tmp_path):
    path = tmp_path / "m.dipgo"
    first = build(mask, output=path, exported=plain_tiny_sd, options=options(fuse="none"))
    second = build(mask, output=path, exported=plain_tiny_sd)
    assert len(second.plan.program.engines) == 2 < len(first.plan.program.engines)
    assert sorted(p.name for p in path.iterdir()) == sorted(
        ["plan.json", "mask.json", "weights.bin", "constants.bin", "pattern0.onnx", "prologue.onnx", "cache"]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["m.dipgo"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: replace(m, model=replace(m.model, class_name="DiTTransformer2DModel")),
            "DiTTransformer2D",
        ),
        (lambda m: replace(m, model=replace(m.model, config_sha256="0" * 64)), "another configuration"),
        (lambda m: replace(m, blocks=("down_blocks.9", *m.blocks[1:])), "no block 'down_blocks.9'"),
        (lambda m: replace(m, blocks=m.blocks[::-1]), "not in execution order"),
        (lambda m: replace(m, reuse="residual"), "residual"),
        (
            lambda m: replace(m, scheduler=replace(m.scheduler, timesteps=(4.0, 3.0, 2.0, 1.0))),
            "timesteps are not",
        ),
        (
            lambda m: replace(
                m, keep=m.keep[:3], scheduler=replace(m.scheduler, timesteps=m.scheduler.timesteps[:3])
            ),
            "timesteps are not",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, change, message, tiny_sd):
    with pytest.raises(MaskError, match=message):
        check(change(mask), tiny_sd.model)


def test_a_missing_block_is_refused(mask, tiny_sd):
    fewer = replace(mask, blocks=mask.blocks[1:], keep=tuple(row[1:] for row in mask.keep), provenance={})
    with pytest.raises(MaskError, match=r"down_blocks\.0"):
        check(fewer, tiny_sd.model)


@pytest.mark.parametrize("option", ["clip_sample", "thresholding"])
def test_a_scheduler_option_that_is_not_linear_is_refused_by_name(mask, option, tiny_sd):
    scheduler = replace(mask.scheduler, config={**mask.scheduler.config, option: True})
    with pytest.raises(ScheduleError, match=option) as error:
        check(replace(mask, scheduler=scheduler), tiny_sd.model)
    assert "as_unet" in str(error.value)


def test_a_model_that_is_not_there(mask, tmp_path):
    with pytest.raises(ModelError, match="no/such/model"):
        build(mask, source="no/such/model", output=tmp_path / "m.dipgo")
    assert not list(tmp_path.iterdir())


def test_unknown_options_are_refused():
    with pytest.raises(BackendError, match="fp8"):
        options(precision="fp8")
    with pytest.raises(BackendError, match="tpu"):
        options(provider="tpu")


def test_an_image_size_that_the_autoencoder_cannot_make(mask, tmp_path):
    with pytest.raises(InputError, match="multiple of"):
        build(mask, output=tmp_path / "m.dipgo", options=options(height=33))


def _denoiser():
    from dipgo_compile.models.source import load

    return load(str(Path(TINY_SD)), weights=False).denoiser
