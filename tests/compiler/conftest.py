"""The shipped model, exported and rewritten once for all tests of the compiler."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reference import TINY_SD

from dipgo_compile.build import Exported
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.halves import share_halves
from dipgo_compile.models.source import load
from dipgo_compile.rewrites import apply, default_rewrites


@pytest.fixture(scope="session")
def plain_tiny_sd() -> Exported:
    """tiny-sd for one guided image, as the exporter gave it. Not to be changed."""
    model = load(str(TINY_SD))
    geometry = model.geometry(batch=2)
    return Exported(model, geometry, export(model, geometry))


@pytest.fixture(scope="session")
def tiny_sd(plain_tiny_sd: Exported) -> Exported:
    """tiny-sd for one guided image, as ``build`` compiles it."""
    model, graph = plain_tiny_sd.model, plain_tiny_sd.onnx.clone()
    assert share_halves(graph, model.inputs(plain_tiny_sd.geometry)).modified
    apply(graph, default_rewrites("onnxruntime"))
    return replace(plain_tiny_sd, onnx=graph)
