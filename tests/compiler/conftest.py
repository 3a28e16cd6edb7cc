"""The shipped model, exported once for all tests of the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest

from dipgo_compile.export import export
from dipgo_compile.models import Geometry
from dipgo_compile.models.source import Model, load

TINY_SD = Path(__file__).parents[2] / "models" / "tiny-sd"


@dataclass(frozen=True)
class Exported:
    model: Model
    geometry: Geometry
    onnx: ir.Model


@pytest.fixture(scope="session")
def tiny_sd() -> Exported:
    """tiny-sd for one guided image."""
    model = load(str(TINY_SD))
    geometry = model.geometry(batch=2)
    return Exported(model, geometry, export(model, geometry))
