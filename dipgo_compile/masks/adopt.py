"""A mask and an ONNX file that it wasn't made for: an export of the mask's model, or a newer export of its
file.

A file can't prove that it is the same denoiser. That it is, is what ``build --onnx`` states; what can be
checked is that it has the mask's blocks, in their order.
"""

from __future__ import annotations

from dataclasses import replace

from dipgo_compile.errors import MaskError
from dipgo_compile.mask import Mask
from dipgo_compile.masks.checks import matching_scopes
from dipgo_compile.models import FAMILIES
from dipgo_compile.models.onnx_file import OnnxModel
from dipgo_compile.models.reading import ONNX_CLASS, Reading


def with_guidance_of(mask: Mask, reading: Reading) -> Reading:
    """``reading``, and where it doesn't tell the order of guidance, that of the mask's diffusers class."""
    family = FAMILIES.get(mask.model.class_name)
    if family is None or family.class_name == ONNX_CLASS:
        return reading
    return reading.over(Reading(guidance_order=family.guidance_order))


def adopt(mask: Mask, model: OnnxModel, pattern: str | None = None) -> Mask:
    """The mask, made for ``model``. Its blocks are the modules that ``pattern`` matches, or what lies between
    the file's cuts, where those are called otherwise: one for one, in order. Raises MaskError.
    """
    blocks = matching_scopes(pattern, model.scopes) if pattern else model.cuts or mask.blocks
    if len(blocks) != len(mask.blocks):
        raise MaskError(
            f"{len(blocks)} modules for the {len(mask.blocks)} blocks of the mask",
            where="--blocks" if pattern else "--cuts",
            available=mask.blocks,
            mend=f"choose as many as the mask has; these were chosen: {', '.join(blocks)}",
        )
    if blocks != mask.blocks:
        mask = replace(mask, blocks=blocks, provenance={**mask.provenance, "blocks": pattern or ".+"})
    return replace(mask, model=model.ref())


def unproven(mask: Mask, model: OnnxModel) -> str | None:
    """What can't be known of the two belonging together, as a sentence; None where it is known."""
    made_for = mask.model
    if made_for.class_name != ONNX_CLASS:
        return (
            f"{model.source} is taken for an export of {made_for.source}: all that is checked is that its "
            "blocks are called the same"
        )
    if made_for.config_sha256 != model.config_sha256:
        return f"{model.source} is not built like {made_for.source}, for which the mask was made"
    return None
