"""Denoiser families, presets and loading."""

from __future__ import annotations

from dipgo_compile.errors import ModelError
from dipgo_compile.models.base import Denoiser, Family, Geometry, InputSpec
from dipgo_compile.models.dit import DiTTransformer2D
from dipgo_compile.models.pixart import PixArtTransformer2D
from dipgo_compile.models.reading import OnnxFamily
from dipgo_compile.models.unet2d_condition import UNet2DCondition

FAMILIES: dict[str, Family] = {
    family.class_name: family
    for family in (UNet2DCondition(), DiTTransformer2D(), PixArtTransformer2D(), OnnxFamily())
}

__all__ = ["FAMILIES", "Denoiser", "Family", "Geometry", "InputSpec", "family_of"]


def family_of(class_name: str) -> Family:
    """The adapter for a denoiser class. Raises ModelError, naming the known classes."""
    try:
        return FAMILIES[class_name]
    except KeyError:
        raise ModelError(
            f"no adapter for the denoiser class {class_name!r}",
            available=FAMILIES,
            mend="use a model of a known class, or add an adapter to dipgo_compile/models",
        ) from None
