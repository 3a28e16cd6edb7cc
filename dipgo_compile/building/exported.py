"""A denoiser and its graph at one size: what a build compiles, and what builds of several masks can share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dipgo_compile.building.guidance import geometry_of
from dipgo_compile.building.options import BuildOptions
from dipgo_compile.errors import InputError
from dipgo_compile.models import Denoiser, Geometry


@dataclass(frozen=True)
class Exported:
    """A denoiser and its graph at one size: all that a build needs besides the mask, so that several masks of
    one model can share it. ``onnx`` is as the exporter gave it.
    """

    model: Denoiser
    geometry: Geometry
    onnx: ir.Model

    @classmethod
    def of(cls, model: Denoiser, options: BuildOptions) -> Exported:
        """Export ``model`` at the size and batch of ``options``. Raises ModelError, InputError."""
        geometry = geometry_of(model, options)
        return cls(model, geometry, model.graph(geometry))

    def check_serves(self, each: Sequence[BuildOptions]) -> None:
        """Raises InputError for a build of several shapes, or of another than the graph's."""
        if len(each) > 1:
            raise InputError(
                "an exported graph has one shape, and several are asked for", mend="leave the graph out"
            )
        wanted = geometry_of(self.model, each[0])
        if self.geometry != wanted:
            raise InputError(
                f"the graph was exported for {self.geometry}, the build asks for {wanted}",
                mend="export the model with the same options",
            )
