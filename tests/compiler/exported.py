"""A model with its exported graph: what most tests of the compiler start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from dipgo_compile.models import Geometry
from dipgo_compile.models.source import Model

TINY_SD = Path(__file__).parents[2] / "models" / "tiny-sd"


@dataclass(frozen=True)
class Exported:
    model: Model
    geometry: Geometry
    onnx: ir.Model
