"""Files whose exporter named no modules are cut at tensors."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx_denoiser import File, make_mask

from dipgo_compile.build import build
from dipgo_compile.compare import compare
from dipgo_compile.errors import GraphError
from dipgo_compile.models.onnx_file import OnnxModel, open_onnx
from dipgo_compile.models.reading import Reading

ROUNDING = 1e-4  # as in test_onnx_parity.py


@pytest.fixture(scope="module")
def nameless(torchscript: File, tmp_path_factory: pytest.TempPathFactory) -> File:
    """As an optimiser leaves a file: nodes are numbered, modules forgotten."""
    model = onnx.load(torchscript.path)
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    path = tmp_path_factory.mktemp("nameless") / "nameless.onnx"
    onnx.save(model, path)
    return File(path, torchscript.reading, torchscript.module)


@pytest.fixture(scope="module")
def ends(torchscript: File) -> tuple[str, ...]:
    """The tensors that leave the first convolution and the stages."""
    graph = onnx.load(torchscript.path).graph
    last = {}
    for node in graph.node:
        stage = node.name.split("/")[1] if node.name.count("/") > 1 else ""
        if stage in ("enter", "stages.0", "stages.1", "stages.2"):
            last[stage] = node.output[0]
    return tuple(last.values())


def cut_at(file: File, *tensors: str) -> OnnxModel:
    return open_onnx(str(file.path), Reading(cuts=tensors).over(file.reading))


def test_no_modules_are_known(nameless: File) -> None:
    assert nameless.open().scopes == ()


@pytest.mark.parametrize("rows", [("111", "010", "000", "101"), ("111", "001", "110", "011")])
def test_pieces_are_blocks(
    nameless: File, ends: tuple[str, ...], rows: tuple[str, ...], tmp_path: Path
) -> None:
    """Cut where the modules were, the plan is what it is with modules; what lies before is glue."""
    model = cut_at(nameless, *ends)
    assert model.blocks() == model.scopes == ends[1:]
    build(make_mask(model, rows, "ddim"), model=model, output=tmp_path / "cut.dipgo")
    found = compare(tmp_path / "cut.dipgo")
    assert found.latents_relative_l2 < ROUNDING
    assert max(call.max_abs_diff for call in found.calls) < ROUNDING


def test_cut_as_modules_were(
    nameless: File, torchscript: File, ends: tuple[str, ...], tmp_path: Path
) -> None:
    rows = ("111", "011", "000")
    cut, whole = cut_at(nameless, *ends), torchscript.open()
    plans = [
        build(make_mask(model, rows, "ddim"), model=model, output=tmp_path / f"{index}.dipgo").plan
        for index, model in enumerate((cut, whole))
    ]
    assert plans[0].macs == plans[1].macs
    assert len(plans[0].program.instructions) == len(plans[1].program.instructions)


def test_the_ends_can_be_blocks_too(nameless: File, ends: tuple[str, ...], tmp_path: Path) -> None:
    """From the sample to the noise prediction: a call that computes nothing costs nothing."""
    model = cut_at(nameless, "x", *ends, "eps")
    assert model.blocks() == (*ends, "eps")
    plan = build(
        make_mask(model, ("11111", "00000", "00011"), "ddim"), model=model, output=tmp_path / "m.dipgo"
    ).plan
    assert plan.program.calls_with_runs() == (0, 2)
    assert compare(tmp_path / "m.dipgo").latents_relative_l2 < ROUNDING


def test_a_cut_that_is_not_there(nameless: File) -> None:
    with pytest.raises(GraphError, match="no tensor 'stage' to cut at"):
        cut_at(nameless, "x", "stage")
