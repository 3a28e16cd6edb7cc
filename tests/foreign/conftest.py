"""The stranger's denoiser, exported in the ways that strangers export."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from onnx_denoiser import File
from stranger import FREE, Stranger, arguments, export_today, export_torchscript

from dipgo_compile.models.reading import Reading
from dipgo_compile.models.source import Model, load


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def today(folder: Path) -> File:
    """The newest opset, weights beside the file, a free batch."""
    module = Stranger().eval()
    path = folder / "today.onnx"
    export_today(module, path)
    return File(path, Reading(guidance_order=("cond", "uncond")), module)


@pytest.fixture(scope="session")
def torchscript(folder: Path) -> File:
    """Opset 17 of the older exporter, weights inside; batch, size and tokens are free."""
    module = Stranger().eval()
    path = folder / "torchscript.onnx"
    export_torchscript(module, path, FREE)
    return File(path, Reading(dims={"rows": 8, "columns": 8, "tokens": 5}), module)


@pytest.fixture(scope="session")
def sigma(folder: Path) -> File:
    """Reads one sigma for the batch, a fraction. Everything is static, for two samples."""
    module = Stranger().eval()
    path = folder / "sigma.onnx"
    x, _, text, strength = arguments(2)
    names = ["x", "sigma", "text", "strength"]
    export_torchscript(module, path, {}, (x, torch.tensor(0.5), text, strength), names)
    return File(path, Reading(guidance_order=("uncond", "cond")), module)


@pytest.fixture(scope="session")
def exported_tiny_sd(repository: Path, folder: Path) -> tuple[Model, Path]:
    """models/tiny-sd, and its denoiser as a file, for two samples."""
    model = load(str(repository / "models" / "tiny-sd"))
    ir.save(model.graph(model.geometry(2)), folder / "tiny-sd.onnx")
    return model, folder / "tiny-sd.onnx"


FILES = ("today", "torchscript", "sigma")


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest) -> File:
    found: File = request.getfixturevalue(request.param)
    return found
