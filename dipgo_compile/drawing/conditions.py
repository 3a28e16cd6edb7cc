"""What a pipeline's text encoders, classes and sizes are to its denoiser: the conditions that a plan reads.

One function for each kind of pipeline; which one it is follows from the conditions that a plan asks for. All
the encoding is done by the pipeline's own methods, with the defaults of its ``__call__``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dipgo_compile.drawing.draw import class_ids
from dipgo_compile.errors import ModelError
from dipgo_compile.models.unet2d_condition import REFINER_TIME_IDS
from dipgo_compile.plan import Plan
from dipgo_compile.runtime import DEFAULT_GUIDANCE_SCALE

Conditions = Mapping[str, torch.Tensor]
Halves = dict[str, Conditions]
"""By half of a guided batch ("cond", "uncond"), then by name; the leading axis counts images."""

GUIDANCE_EMBEDDING = "timestep_cond"
AESTHETIC_SCORES = {"cond": 6.0, "uncond": 2.5}  # of 10, by half of the batch: the refiner's pipeline's


@dataclass(frozen=True)
class Request:
    """What is to be drawn, one prompt an image. ``height`` and ``width`` are pixels."""

    plan: Plan
    prompts: tuple[str, ...]
    negative_prompt: str
    height: int
    width: int

    def shape(self, condition: str) -> tuple[int, ...]:
        return self.plan.condition(condition).shape


def reads_guidance(plan: Plan) -> bool:
    """Whether the denoiser takes the guidance scale as an input, as latent consistency models do."""
    return GUIDANCE_EMBEDDING in plan.interface.conditions


def encode(
    pipeline: Any,
    plan: Plan,
    prompts: Sequence[str],
    negative_prompt: str,
    guidance_scale: float | None = None,
) -> dict[str, torch.Tensor]:
    """The denoiser's conditions for some images, under guidance both halves in the plan's order.

    ``guidance_scale`` (7.5 unless given) is read by denoisers that take it as an input: latent consistency
    models. Raises InputError for an unknown class, ModelError for conditions that no known pipeline makes.
    """
    wanted = plan.interface.conditions
    make = KINDS.get(frozenset(wanted) - {GUIDANCE_EMBEDDING})
    if make is None:
        raise ModelError(
            f"generate cannot make the conditions {', '.join(wanted)}",
            available=[" + ".join(sorted(kind)) for kind in KINDS],
            mend="encode them yourself and call dipgo_compile.Runtime.denoise",
        )
    factor = _scale_factor(pipeline)
    height, width = plan.shape.height * factor, plan.shape.width * factor
    with torch.no_grad():
        halves = make(pipeline, Request(plan, tuple(prompts), negative_prompt, height, width))
    order = plan.interface.guidance or ("cond",)
    made = {name: torch.cat([halves[half][name] for half in order]) for name in halves["cond"]}
    if reads_guidance(plan):
        batch, width = plan.condition(GUIDANCE_EMBEDDING).shape
        scale = DEFAULT_GUIDANCE_SCALE if guidance_scale is None else guidance_scale
        # Luo et al. 2023, section 4.1. The pipelines count from 0, where 1 means no guidance.
        scales = torch.tensor(scale - 1).repeat(batch)
        made[GUIDANCE_EMBEDDING] = pipeline.get_guidance_scale_embedding(scales, embedding_dim=width)
    return {name: made[name].to(getattr(torch, plan.condition(name).dtype)) for name in wanted}


def classes(pipeline: Any, request: Request) -> Halves:
    """DiT: a class's number or name; "no class" for the other half."""
    ids = class_ids(request.plan, getattr(pipeline, "labels", None) or {}, request.prompts)
    return {half: {"class_labels": torch.tensor(labels)} for half, labels in ids.items()}


def stable_diffusion(pipeline: Any, request: Request) -> Halves:
    """Stable Diffusion 1.x and 2.x and latent consistency models: the text encoder's hidden states."""
    cond, uncond = pipeline.encode_prompt(
        prompt=list(request.prompts),
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=[request.negative_prompt] * len(request.prompts),
    )[:2]
    return {"cond": {"encoder_hidden_states": cond}, "uncond": {"encoder_hidden_states": uncond}}


def stable_diffusion_xl(pipeline: Any, request: Request) -> Halves:
    """Stable Diffusion XL: hidden states of two text encoders, the second's pooled output, and the sizes
    (height, width, crop top, crop left, height, width). Its refiner has the second encoder alone, and an
    aesthetic score in the place of the second size. Without a negative prompt, the other half is what the
    pipeline makes of none at all: zeros, unless its config says otherwise.
    """
    negative = [request.negative_prompt] * len(request.prompts) if request.negative_prompt else None
    cond, uncond, pooled, negative_pooled = pipeline.encode_prompt(
        prompt=list(request.prompts),
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative,
    )
    size = (request.height, request.width)
    refines = request.shape("time_ids")[1] == REFINER_TIME_IDS

    def sizes(half: str) -> torch.Tensor:
        row = (*size, 0, 0, AESTHETIC_SCORES[half]) if refines else (*size, 0, 0, *size)
        return torch.tensor([row], dtype=torch.float32).repeat(len(request.prompts), 1)

    return {
        "cond": {"encoder_hidden_states": cond, "text_embeds": pooled, "time_ids": sizes("cond")},
        "uncond": {
            "encoder_hidden_states": uncond,
            "text_embeds": negative_pooled,
            "time_ids": sizes("uncond"),
        },
    }


def pixart(pipeline: Any, request: Request) -> Halves:
    """PixArt-alpha: the T5 encoder's hidden states and which of them count, and where the model was trained
    on sizes, the image's.
    """
    cond, mask, uncond, negative_mask = pipeline.encode_prompt(
        list(request.prompts),
        do_classifier_free_guidance=True,
        negative_prompt=request.negative_prompt,
        num_images_per_prompt=1,
        device="cpu",
        clean_caption=True,
        max_sequence_length=request.shape("encoder_hidden_states")[1],
    )
    sizes: dict[str, torch.Tensor] = {}
    if "resolution" in request.plan.interface.conditions:
        images = len(request.prompts)
        sizes["resolution"] = torch.tensor([[request.height, request.width]]).repeat(images, 1)
        sizes["aspect_ratio"] = torch.tensor([[request.height / request.width]]).repeat(images, 1)
    return {
        "cond": {"encoder_hidden_states": cond, "encoder_attention_mask": mask, **sizes},
        "uncond": {"encoder_hidden_states": uncond, "encoder_attention_mask": negative_mask, **sizes},
    }


KINDS: dict[frozenset[str], Callable[[Any, Request], Halves]] = {
    frozenset({"class_labels"}): classes,
    frozenset({"encoder_hidden_states"}): stable_diffusion,
    frozenset({"encoder_hidden_states", "text_embeds", "time_ids"}): stable_diffusion_xl,
    frozenset({"encoder_hidden_states", "encoder_attention_mask"}): pixart,
    frozenset({"encoder_hidden_states", "encoder_attention_mask", "resolution", "aspect_ratio"}): pixart,
}
"""By the names of the conditions; the embedded guidance scale may come on top of any."""


def _scale_factor(pipeline: Any) -> int:
    """Pixels a latent, along one axis."""
    return int(2 ** (len(pipeline.vae.config.block_out_channels) - 1))
