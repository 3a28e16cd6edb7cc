"""Images from a bundle: the pipeline's text encoder and image decoder around the runtime's denoising loop.

Noise is drawn as diffusers draws it, one generator an image, so a bundle of an all-ones mask gives the image
that the pipeline gives for the same seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from dipgo_compile.errors import InputError, ModelError
from dipgo_compile.mask import Mask
from dipgo_compile.models import family_of
from dipgo_compile.plan import Plan
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE, Runtime

if TYPE_CHECKING:
    from PIL.Image import Image

Conditions = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Job:
    """One image to draw. ``prompt`` is text, or a class of a class-conditional model, by name or number."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Drawn:
    """An image, and the seconds that its share of the denoising loop took."""

    job: Job
    image: Image
    seconds: float


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
    check_pipeline(pipeline, runtime.plan)
    images = images_together(runtime.plan)
    for start in range(0, len(jobs), images):
        batch = list(jobs[start : start + images])
        padded = batch + [batch[-1]] * (images - len(batch))
        encoded = encode(pipeline, runtime.plan, [job.prompt for job in padded], negative_prompt)
        conditions: dict[str, Any] = {name: value.numpy() for name, value in encoded.items()}
        noise, *draws = draw_noise(runtime.plan, [job.seed for job in padded])
        started = time.perf_counter()
        latents = runtime.denoise(
            noise.numpy(),
            guidance_scale=guidance_scale,
            draws=[draw.numpy() for draw in draws],
            callback=callback,
            **conditions,
        )
        seconds = (time.perf_counter() - started) / len(batch)
        decoded = decode(pipeline, torch.from_numpy(latents))
        for job, image in zip(batch, decoded[: len(batch)], strict=True):
            yield Drawn(job, image, seconds)


def trained_guidance_scale(mask: Mask) -> float:
    """The guidance scale that a mask was trained with, or 7.5."""
    scale = mask.provenance.get("guidance_scale")
    return float(scale) if isinstance(scale, int | float) else DEFAULT_GUIDANCE_SCALE


def images_together(plan: Plan) -> int:
    """How many images a bundle denoises together."""
    return plan.program.specs[plan.interface.latents].shape[0]


def draw_noise(plan: Plan, seeds: Sequence[int]) -> list[torch.Tensor]:
    """The initial noise and the scheduler's draws, of unit variance, in a pipeline's order."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shapes = [plan.program.specs[name].shape for name in (plan.interface.latents, *plan.interface.draws)]
    return [randn_tensor(shape, generator=generators, dtype=torch.float32) for shape in shapes]


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
    names: Mapping[str, int] = getattr(pipeline, "labels", None) or {}
    nothing = family_of(plan.model["class"]).unconditional_classes(plan.model["config"])
    assert nothing is not None  # a family with class labels has one
    classes = []
    for prompt in prompts:
        label = int(prompt) if prompt.isdecimal() else names.get(prompt)
        if label is None or label >= nothing:
            raise InputError(
                f"the model has no class {prompt!r}", available=(f"0 to {nothing - 1}", *sorted(names)[:20])
            )
        classes.append(label)
    return {"cond": torch.tensor(classes), "uncond": torch.full((len(classes),), nothing)}
