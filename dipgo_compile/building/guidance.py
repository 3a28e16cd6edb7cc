"""How the guided batch lies, and with it how many samples the denoiser computes in one run."""

from __future__ import annotations

from dipgo_compile.building.options import BuildOptions
from dipgo_compile.drawing.conditions import GUIDANCE_EMBEDDING
from dipgo_compile.errors import InputError
from dipgo_compile.models import Denoiser, Geometry
from dipgo_compile.passes.unroll import Guidance


def guidance_of(model: Denoiser, options: BuildOptions) -> Guidance | None:
    """How the guided batch lies; None without guidance. Raises InputError where nobody knows the order, for
    guidance of a denoiser that was distilled to do without, and where there is nothing to split.
    """
    order = model.guidance_order
    distilled = any(spec.name == GUIDANCE_EMBEDDING for spec in model.inputs(model.geometry()))
    if options.guidance and distilled:
        raise InputError(
            f"{model.source} takes the guidance scale as an input: it would be guided twice",
            where=GUIDANCE_EMBEDDING,
            mend="build it with --no-guidance; generate --guidance-scale still works",
        )
    if options.guidance and order is None:
        raise InputError(
            "the order of the guided batch's halves is unknown: an ONNX file doesn't tell",
            where=model.source,
            mend="state it as --guidance-order uncond,cond (Stable Diffusion's) or cond,uncond (DiT's)",
        )
    if order is None or distilled or options.guidance is False:
        if options.split_guidance:
            raise InputError(
                "there is no guidance to split: the bundle is built without",
                where=model.source,
                mend="leave --split-guidance out, or build with --guidance",
            )
        return None
    return Guidance(order, options.split_guidance)


def geometry_of(model: Denoiser, options: BuildOptions) -> Geometry:
    """Of the denoiser's samples: one an image, two where both halves of a guided batch are in one run."""
    guidance = guidance_of(model, options)
    split = guidance is not None and guidance.split
    samples = 1 if guidance is None or split else 2
    geometry = model.geometry(options.images * samples, options.height, options.width)
    if split:
        _check_batches(model, geometry)
    return geometry


def _check_batches(model: Denoiser, geometry: Geometry) -> None:
    for given in model.inputs(geometry):
        if given.role == "condition" and given.spec.shape[:1] != (geometry.batch,):
            raise InputError(
                f"the condition {given.name!r} has no batch, so guidance can't be split",
                where=model.source,
                mend="leave --split-guidance out",
            )
