"""The shipped model, exported and rewritten once for all tests of the compiler."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import pytest

from dipgo_compile.export import export
from dipgo_compile.models import Geometry
from dipgo_compile.models.source import Model, load
from dipgo_compile.rewrites import apply, default_rewrites

TINY_SD = Path(__file__).parents[2] / "models" / "tiny-sd"


@dataclass(frozen=True)
class Exported:
    model: Model
    geometry: Geometry
    onnx: ir.Model


@pytest.fixture(scope="session")
def plain_tiny_sd() -> Exported:
    """tiny-sd for one guided image, as the exporter gave it. Not to be changed."""
    model = load(str(TINY_SD))
    geometry = model.geometry(batch=2)
    return Exported(model, geometry, export(model, geometry))


@pytest.fixture(scope="session")
def tiny_sd(plain_tiny_sd: Exported) -> Exported:
    """tiny-sd for one guided image, as ``build`` compiles it."""
    graph = plain_tiny_sd.onnx.clone()
    apply(graph, default_rewrites("onnxruntime"))
    return replace(plain_tiny_sd, onnx=graph)
