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

from dipgo_compile.drawing.conditions import encode, reads_guidance
from dipgo_compile.drawing.draw import Drawn, Job, check_image, draw, images_together
from dipgo_compile.errors import ModelError
from dipgo_compile.mask import Mask
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE, Runtime

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Drawn", "Job", "decode", "encode", "generate", "images_together", "trained_guidance_scale"]


class DiffusersEnds:
    """The ends of a diffusers pipeline, computed by PyTorch. See ``drawing.Ends``."""

    def __init__(
        self, pipeline: Any, plan: Plan, guidance_scale: float | None = None, image: Image | None = None
    ) -> None:
        """``guidance_scale`` is for denoisers that read it (``conditions.encode``), ``image`` what an
        image-to-image plan begins with. Raises ModelError for a pipeline around another denoiser, InputError
        for an image too many or too few.
        """
        check_pipeline(pipeline, plan)
        check_image(plan, image is not None)
        self._pipeline, self._scale, self._image = pipeline, guidance_scale, image

    def conditions(self, plan: Plan, prompts: Sequence[str], negative_prompt: str) -> Mapping[str, Array]:
        encoded = encode(self._pipeline, plan, prompts, negative_prompt, self._scale)
        return {name: value.numpy() for name, value in encoded.items()}

    def image_latents(self, noise: Array) -> Array:
        assert self._image is not None  # or the plan would not ask
        return encode_image(self._pipeline, self._image, torch.from_numpy(noise)).numpy()

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
    image: Image | None = None,
    callback: Callable[[int], None] | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Iterator[Drawn]:
    """Draw the jobs, in order, as many together as the bundle was built for.

    ``pipeline`` is the diffusers pipeline that the bundle's denoiser comes from
    (``models.source.load_pipeline``); its own denoiser and scheduler are not used. ``guidance_scale`` is 7.5
    unless given. ``image`` is what an image-to-image bundle begins with. ``callback`` gets the index of every
    denoiser call that computes anything. ``height`` and ``width`` choose among the bundle's sizes. Raises
    InputError, ModelError.
    """
    return draw(
        runtime,
        DiffusersEnds(pipeline, runtime.plan, guidance_scale, image),
        jobs,
        negative_prompt=negative_prompt,
        guidance_scale=None if reads_guidance(runtime.plan) else guidance_scale,
        callback=callback,
        height=height,
        width=width,
    )


def trained_guidance_scale(mask: Mask) -> float:
    """The guidance scale that a mask was trained with, or 7.5."""
    scale = mask.provenance.get("guidance_scale")
    return float(scale) if isinstance(scale, int | float) else DEFAULT_GUIDANCE_SCALE


def encode_image(pipeline: Any, image: Image, noise: torch.Tensor) -> torch.Tensor:
    """The latents that an image-to-image plan begins with: the image, resized to the plan's size, for every
    place of the batch. Its encoder gives a distribution, from which ``noise``, of unit variance and the
    latents' shape, chooses.
    """
    from diffusers.image_processor import VaeImageProcessor

    vae = pipeline.vae
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    height, width = (size * factor for size in noise.shape[2:])
    pixels = VaeImageProcessor(vae_scale_factor=factor).preprocess(image, height=height, width=width)
    with torch.no_grad():
        found = vae.encode(pixels).latent_dist
    latents: torch.Tensor = vae.config.scaling_factor * (found.mean + found.std * noise)
    return latents


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
