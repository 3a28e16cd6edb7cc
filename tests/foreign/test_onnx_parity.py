"""A compiled file against the file itself, and the file's reference against PyTorch."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dipgo_trainer.supernet import SuperNet
from onnx_denoiser import File, make_mask
from stranger import FREE, Stranger, arguments, export_torchscript

from dipgo_compile.build import BuildOptions, build, check, compile_plan, write
from dipgo_compile.bundle import open_bundle
from dipgo_compile.compare import compare
from dipgo_compile.errors import InputError, MaskError, ParityError
from dipgo_compile.graphs.reference import OnnxReference
from dipgo_compile.measure.rows import prepare
from dipgo_compile.models.reading import Reading

ROUNDING = 1e-4  # float32 sums in another order; a block computed or reused wrongly moves results by 1e-2


def random_rows(calls: int, blocks: int, seed: int) -> tuple[str, ...]:
    draw = random.Random(seed)
    rows = ["".join(draw.choice("01") for _ in range(blocks)) for _ in range(calls - 1)]
    return ("1" * blocks, *rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_random_masks(file: File, seed: int, tmp_path: Path) -> None:
    """Every call, and the whole loop, against the file block by block."""
    model = file.open()
    mask = make_mask(model, random_rows(5, 3, seed), "euler" if model.timestep_kind == "sigma" else "ddim")
    plan = build(mask, model=model, output=tmp_path / "m.dipgo").plan
    assert (plan.interface.guidance is not None) == bool(file.reading.guidance_order)
    found = compare(tmp_path / "m.dipgo")
    assert found.latents_relative_l2 < ROUNDING
    assert max(call.max_abs_diff for call in found.calls) < ROUNDING


def test_an_unpruned_plan_is_the_file(file: File, tmp_path: Path) -> None:
    """With nothing reused the reference runs the file as it is, in one session."""
    model = file.open()
    scheduler = "heun" if model.timestep_kind == "sigma" else "ddim"
    rows = ("111",) * (5 if scheduler == "heun" else 3)
    build(make_mask(model, rows, scheduler), model=model, output=tmp_path / "m.dipgo")
    assert compare(tmp_path / "m.dipgo").latents_relative_l2 < ROUNDING


@pytest.mark.parametrize("disabled", ["fold_timestep", "hoist_prompt", "fuse"])
def test_each_pass_can_be_left_out(today: File, disabled: str, tmp_path: Path) -> None:
    model = today.open()
    mask = make_mask(model, random_rows(4, 3, 2), "plms")
    build(mask, model=model, output=tmp_path / "m.dipgo", options=BuildOptions(disabled=(disabled,)))
    assert compare(tmp_path / "m.dipgo").latents_relative_l2 < ROUNDING


def test_the_reference_is_the_supernet(torchscript: File) -> None:
    """On the module that the file was exported from, the same blocks skipped."""
    model = torchscript.open()
    rows = random_rows(6, 3, 3)
    mask = make_mask(model, rows, "ddim")
    torch.manual_seed(1)
    with SuperNet(torchscript.module, mask.blocks) as net, OnnxReference(model, mask) as reference:
        for call, keep in enumerate(mask.keep):
            sample, _, *conditions = arguments(3)
            given = (sample, torch.full((3,), 900 - 150 * call), *conditions)
            net.set_row(keep)
            with torch.no_grad():
                expected = torchscript.module(*given)
            actual = reference(call, dict(zip(("x", "t", "text", "strength"), given, strict=True)))
            np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=ROUNDING)


def test_a_wrong_reuse_is_noticed(today: File, tmp_path: Path) -> None:
    """A plan that reuses what its mask computes fails at the first call that differs."""
    model = today.open()
    geometry = model.geometry(2)
    mask = make_mask(model, ("111", "101", "111"), "ddim")
    graph = model.graph(geometry)
    plan = compile_plan(model, geometry, graph, mask, check(mask, model), BuildOptions())
    write(tmp_path / "m.dipgo", plan, graph, replace(mask, keep=(mask.keep[0],) * 3))
    with pytest.raises(ParityError, match="first that of call 1"):
        compare(tmp_path / "m.dipgo").check()


def test_other_weights_are_noticed(torchscript: File, tmp_path: Path) -> None:
    """They don't change the file's structure, so it may stand in for the bundle's."""
    model = torchscript.open()
    build(make_mask(model, ("111", "000"), "ddim"), model=model, output=tmp_path / "m.dipgo")
    other = tmp_path / "other.onnx"
    export_torchscript(Stranger().eval(), other, FREE)
    with pytest.raises(ParityError, match="first that of call 0"):
        compare(tmp_path / "m.dipgo", source=str(other)).check()


def test_residual_reuse_has_no_reference(today: File) -> None:
    model = today.open()
    mask = replace(make_mask(model, ("111", "101"), "ddim"), reuse="residual")
    with pytest.raises(MaskError, match="no reference for reuse 'residual'"):
        OnnxReference(model, mask)


def test_a_file_for_one_sample_is_guided_in_halves(folder: Path, tmp_path: Path) -> None:
    """Its batch is fixed, so the halves of a guided batch can't be computed together."""
    path = folder / "single.onnx"
    names = ["x", "t", "text", "strength"]
    module = Stranger().eval()
    export_torchscript(module, path, {}, arguments(1), names)
    model = File(path, Reading(guidance_order=("cond", "uncond")), module).open()
    mask = make_mask(model, ("111", "010", "101", "000"), "plms")
    with pytest.raises(InputError, match="is 1 in the file, not 2") as error:
        build(mask, model=model, output=tmp_path / "m.dipgo")
    assert "two an image under guidance: --batch 1 --split-guidance" in str(error.value)
    split = BuildOptions(split_guidance=True)
    bundle = open_bundle(build(mask, model=model, output=tmp_path / "m.dipgo", options=split).path)
    found = compare(bundle.path)
    found.check()
    assert 0 < found.latents_relative_l2 < ROUNDING
    with pytest.raises(InputError, match="is 1 in the file, not 2"):  # bench has no baseline
        prepare.store_dense(bundle, str(path), tmp_path)
