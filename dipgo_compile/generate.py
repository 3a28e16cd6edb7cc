"""Images from a bundle, with a diffusers pipeline around it: its text encoder and its image decoder.

Noise is drawn as diffusers draws it, one generator an image, so a bundle of an all-ones mask gives the image
that the pipeline gives for the same seed. A bundle that was built with its pipeline needs none of this:
``Runtime.draw``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dipgo_compile.drawing import Drawn, Job, class_ids, draw, images_together
from dipgo_compile.errors import ModelError
from dipgo_compile.mask import Mask
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE, Runtime

if TYPE_CHECKING:
    from PIL.Image import Image

Conditions = Mapping[str, torch.Tensor]

__all__ = ["Drawn", "Job", "decode", "encode", "generate", "images_together", "trained_guidance_scale"]


class DiffusersEnds:
    """The ends of a diffusers pipeline, computed by PyTorch. See ``drawing.Ends``."""

    def __init__(self, pipeline: Any, plan: Plan) -> None:
        """Raises ModelError for a pipeline around another denoiser."""
        check_pipeline(pipeline, plan)
        self._pipeline, self._plan = pipeline, plan

    def conditions(self, prompts: Sequence[str], negative_prompt: str) -> Mapping[str, Array]:
        encoded = encode(self._pipeline, self._plan, prompts, negative_prompt)
        return {name: value.numpy() for name, value in encoded.items()}

    def decode(self, latents: Array) -> Array:
        images = decode(self._pipeline, torch.from_numpy(latents))
        return np.stack([np.asarray(image.convert("RGB")) for image in images])


def generate(
    runtime: Runtime,
    pipeline: Any,
    jobs: Sequence[Job],
    *,
    negative_prompt: str = "",
    guidance_scale: float | None = None,
    callback: Callable[[int], None] | None = None,
) -> Iterator[Drawn]:
    """Draw the jobs, in order, as many together as the bundle was built for.

    ``pipeline`` is the diffusers pipeline that the bundle's denoiser comes from
    (``models.source.load_pipeline``); its own denoiser and scheduler are not used. ``guidance_scale`` is 7.5
    unless given. ``callback`` gets the index of every denoiser call that computes anything. Raises
    InputError, ModelError.
    """
    return draw(
        runtime,
        DiffusersEnds(pipeline, runtime.plan),
        jobs,
        negative_prompt=negative_prompt,
        guidance_scale=guidance_scale,
        callback=callback,
    )


def trained_guidance_scale(mask: Mask) -> float:
    """The guidance scale that a mask was trained with, or 7.5."""
    scale = mask.provenance.get("guidance_scale")
    return float(scale) if isinstance(scale, int | float) else DEFAULT_GUIDANCE_SCALE


def encode(pipeline: Any, plan: Plan, prompts: Sequence[str], negative_prompt: str) -> Conditions:
    """The denoiser's conditions for some images, under guidance both halves in the plan's order."""
    if plan.interface.conditions == ("class_labels",):
        halves = _class_labels(pipeline, plan, prompts)
    elif plan.interface.conditions == ("encoder_hidden_states",):
        halves = _text_embeddings(pipeline, prompts, negative_prompt)
    else:
        raise ModelError(
            f"generate cannot make the conditions {', '.join(plan.interface.conditions)}",
            available=("encoder_hidden_states", "class_labels"),
            mend="encode them yourself and call dipgo_compile.Runtime.denoise",
        )
    order = plan.interface.guidance or ("cond",)
    return {plan.interface.conditions[0]: torch.cat([halves[half] for half in order])}


def decode(pipeline: Any, latents: torch.Tensor) -> list[Image]:
    """Final latents (batch, channels, height, width) to images."""
    from diffusers.image_processor import VaeImageProcessor

    with torch.no_grad():
        pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    images: list[Image] = VaeImageProcessor().postprocess(pixels, output_type="pil")
    return images


def check_pipeline(pipeline: Any, plan: Plan) -> None:
    """Refuse a pipeline around another denoiser. Raises ModelError."""
    from dipgo_compile.models.source import config_sha256

    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    if denoiser is None or config_sha256(denoiser.config) != plan.model["config_sha256"]:
        raise ModelError(
            f"the pipeline's denoiser is not the {plan.model['class']} that the bundle was built from",
            where=getattr(pipeline, "name_or_path", None),
            available=(plan.model["source"],),
            mend="pass --model with the pipeline that the mask was made for",
        )


def _text_embeddings(pipeline: Any, prompts: Sequence[str], negative_prompt: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        cond, uncond = pipeline.encode_prompt(
            prompt=list(prompts),
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=[negative_prompt] * len(prompts),
        )[:2]
    return {"cond": cond, "uncond": uncond}


def _class_labels(pipeline: Any, plan: Plan, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    ids = class_ids(plan, getattr(pipeline, "labels", None) or {}, prompts)
    return {half: torch.tensor(labels) for half, labels in ids.items()}
