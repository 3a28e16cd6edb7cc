"""The stranger's denoiser, exported in the ways that strangers export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from stranger import FREE, Stranger, arguments, export_today, export_torchscript

from dipgo_compile.mask import Mask
from dipgo_compile.models.onnx_file import OnnxModel, open_onnx
from dipgo_compile.models.reading import Reading
from dipgo_compile.models.source import Model, load
from dipgo_compile.schedulers import scheduler_ref
from dipgo_compile.scopes import pattern_of


@dataclass(frozen=True)
class File:
    """An exported denoiser, what has to be told of it, and the module it was exported from."""

    path: Path
    reading: Reading
    module: torch.nn.Module

    def open(self, **told: Any) -> OnnxModel:
        return open_onnx(str(self.path), Reading(**told).over(self.reading))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small to be worth a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


STEPS = {"heun": lambda calls: (calls + 1) // 2, "plms": lambda calls: calls - 1}  # the others: as many


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


def make_mask(model: OnnxModel, rows: tuple[str, ...], scheduler: str, blocks: tuple[str, ...] = ()) -> Mask:
    """A mask of these rows, one per call of the scheduler, of the suggested blocks or of these."""
    blocks = blocks or model.blocks()
    steps = STEPS.get(scheduler, lambda calls: calls)(len(rows))
    return Mask(
        model.ref(),
        scheduler_ref(scheduler, model, steps),
        blocks,
        tuple(tuple(character == "1" for character in row) for row in rows),
        provenance={"blocks": pattern_of(blocks, model.scopes)},
    )
