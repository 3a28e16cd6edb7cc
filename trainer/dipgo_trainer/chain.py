"""The denoising loop with the real diffusers scheduler: the reference that every compiled result is compared
with."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dipgo_compile.errors import InputError, MaskError
from dipgo_compile.mask import Mask
from dipgo_compile.models.base import Denoiser, Geometry
from dipgo_compile.models.source import Model, make_scheduler
from dipgo_trainer.supernet import SuperNet

Predict = Callable[[int, dict[str, Tensor]], Tensor]
"""From the call's number and the denoiser's inputs by name to its raw answer."""


@dataclass(frozen=True)
class Trace:
    """What happened in a denoising loop, one entry per denoiser call.

    ``noise_pred``: the denoiser's raw answers, (samples under guidance, out channels, height, width).
    ``latents``: the latents after each scheduler step, (images, in channels, height, width).
    """

    timesteps: tuple[float, ...]
    noise_pred: tuple[Tensor, ...]
    latents: tuple[Tensor, ...]

    @property
    def final(self) -> Tensor:
        """The latents after the last step."""
        return self.latents[-1]


@dataclass(frozen=True)
class Start:
    """Image to image: the denoising step that the loop begins with, and the clean latents of the image, of
    the shape of the noise."""

    step: int
    latents: Tensor


def reference_chain(
    model: Model,
    mask: Mask,
    latents: Tensor,
    conditions: Mapping[str, Tensor],
    guidance_scale: float | None,
    *,
    generator: torch.Generator | None = None,
    noise: Sequence[Tensor] | None = None,
    start: Start | None = None,
) -> Trace:
    """Denoise as ``mask`` says, with PyTorch, block by block.

    ``latents``: unit normal noise, (images, in channels, height, width). ``conditions``: by input name,
    batched as the denoiser reads them: both halves in the family's ``guidance_order`` when ``guidance_scale``
    isn't None. With ``start`` the loop begins there, with everything computed. Schedulers that draw noise
    take it from ``noise``, in the order of the draws, or else from ``generator``. Raises MaskError when the
    scheduler's timesteps aren't the mask's, ModelError for unknown blocks.
    """
    scheduler = scheduler_of(mask)
    keep = mask.keep if start is None else mask.from_call(first_call(scheduler, start.step)).keep
    with torch.no_grad(), SuperNet(model.denoiser, mask.blocks, mask.reuse) as net, drawn(scheduler, noise):

        def predict(call: int, inputs: dict[str, Tensor]) -> Tensor:
            net.set_row(keep[call])
            return model.predict(inputs)

        return denoise(
            model, scheduler, predict, latents, conditions, guidance_scale, generator=generator, start=start
        )


def scheduler_of(mask: Mask) -> Any:
    """The mask's scheduler, set to its steps. Raises MaskError when its timesteps aren't those of the
    mask."""
    reference = mask.scheduler
    scheduler = make_scheduler(reference.class_name, reference.config)
    scheduler.set_timesteps(reference.num_inference_steps)
    timesteps = tuple(float(t) for t in scheduler.timesteps)
    if timesteps != tuple(float(t) for t in reference.timesteps):
        raise MaskError(
            f"the mask's {len(reference.timesteps)} timesteps are not those that {reference.class_name} makes"
            f" for {reference.num_inference_steps} steps ({len(timesteps)} calls)",
            where="scheduler.timesteps",
            mend="train the mask again, or use the diffusers version that it was trained with",
        )
    return scheduler


def first_call(scheduler: Any, step: int) -> int:
    """The denoiser call that a step begins with."""
    return int(step * scheduler.order)


def denoise(
    model: Denoiser,
    scheduler: Any,
    predict: Predict,
    latents: Tensor,
    conditions: Mapping[str, Tensor],
    guidance_scale: float | None,
    *,
    generator: torch.Generator | None = None,
    start: Start | None = None,
    timesteps: Sequence[float] | None = None,
) -> Trace:
    """The loop of a diffusers pipeline, or with ``start`` of an image-to-image pipeline. ``scheduler`` is
    fresh and set to its steps; gradients flow if enabled. ``timesteps``: what the denoiser reads at each
    call, where those aren't the scheduler's."""
    guided = guidance_scale is not None
    images, _, height, width = latents.shape
    specs = model.inputs(Geometry(images * (1 + guided), height, width, model.tokens))
    named = {spec.role: spec for spec in specs if spec.role != "condition"}
    missing = {spec.name for spec in specs if spec.role == "condition"} - conditions.keys()
    if missing:
        raise InputError(f"conditions lack {', '.join(sorted(missing))}", available=conditions)
    extra = {}
    if generator is not None and "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = generator
    steps = scheduler.timesteps
    if start is None:
        sample = latents * scheduler.init_noise_sigma
    else:
        first = first_call(scheduler, start.step)
        steps = steps[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        sample = scheduler.add_noise(start.latents, latents, steps[:1].repeat(images))
    predictions, samples = [], []
    for call, timestep in enumerate(steps):
        scaled = scheduler.scale_model_input(sample, timestep)
        inputs = {
            named["sample"].name: torch.cat([scaled, scaled]) if guided else scaled,
            named["timestep"].name: torch.full(
                named["timestep"].spec.shape,
                float(timestep) if timesteps is None else timesteps[call],
                dtype=getattr(torch, named["timestep"].spec.dtype),
                device=sample.device,
            ),
            **conditions,
        }
        noise_pred = predict(call, inputs)
        predictions.append(noise_pred)
        noise = noise_pred[
            :, : latents.shape[1]
        ]  # the rest of a learned-sigma model's channels are the variance
        if guidance_scale is not None:
            halves = dict(zip(model.family.guidance_order, noise.chunk(2), strict=True))
            noise = halves["uncond"] + guidance_scale * (halves["cond"] - halves["uncond"])
        sample = scheduler.step(noise, timestep, sample, return_dict=False, **extra)[0]
        samples.append(sample)
    return Trace(tuple(float(t) for t in steps), tuple(predictions), tuple(samples))


@contextmanager
def drawn(scheduler: Any, noise: Sequence[Tensor] | None) -> Iterator[None]:
    """Make a scheduler draw given noise: its module's ``randn_tensor`` is replaced while the context
    lasts."""
    module: Any = sys.modules[type(scheduler).__module__]
    if noise is None or not hasattr(module, "randn_tensor"):
        yield
        return
    remaining = iter(noise)

    def given(shape: Any, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> Tensor:
        tensor = next(remaining, None)
        if tensor is None or tuple(tensor.shape) != tuple(shape):
            raise InputError(
                f"the scheduler draws noise of shape {tuple(shape)}, of which no more was given",
                where=type(scheduler).__name__,
                mend="give one tensor per draw",
            )
        return tensor.to(dtype or tensor.dtype)

    original = module.randn_tensor
    module.randn_tensor = given
    try:
        yield
    finally:
        module.randn_tensor = original
