"""The unpruned denoiser in eager PyTorch with the real diffusers scheduler, as a diffusers pipeline runs
it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dipgo_trainer.chain import Predict, Start, denoise, scheduler_of

from dipgo_compile.bundle import MASK
from dipgo_compile.mask import Mask
from dipgo_compile.measure.rows import Countdown, Enough, Image, Job
from dipgo_compile.models.source import Model
from dipgo_compile.models.source import load as load_model
from dipgo_compile.program import Array


def load(job: Job) -> Image:
    return chain(job, lambda model, mask, scheduler: predictor(model, model.denoiser))


def predictor(model: Model, denoiser: Callable[..., Any]) -> Predict:
    """A denoiser, the model's own or made of it, that is called as diffusers calls it."""

    def predict(call: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        answer: torch.Tensor = denoiser(**model.family.arguments(inputs), return_dict=False)[0]
        return answer

    return predict


def starting(job: Job) -> Start | None:
    """Where the loop of an image-to-image bundle begins."""
    latents = job.image_latents()
    if job.start_step is None or latents is None:
        return None
    return Start(job.start_step, torch.from_numpy(latents))


def chain(job: Job, prepare: Callable[[Model, Mask, Any], Predict]) -> Image:
    """A row that denoises in PyTorch. ``prepare`` makes its denoiser from the model, the bundle's mask and
    the scheduler that will be used.
    """
    torch.set_num_threads(job.threads)
    mask = Mask.load(Path(job.bundle) / MASK)
    model, scheduler = load_model(job.source), scheduler_of(mask)
    predict = prepare(model, mask, scheduler)
    noise, arrays, _ = job.inputs()
    latents = torch.from_numpy(noise)
    conditions = {name: torch.from_numpy(array) for name, array in arrays.items()}
    generator = torch.Generator().manual_seed(0)
    start = starting(job)

    def image(calls: int | None = None) -> Array | None:
        count = Countdown(calls)

        def counted(call: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            count()
            return predict(call, inputs)

        scheduler.set_timesteps(mask.scheduler.num_inference_steps)
        try:
            with torch.no_grad():
                trace = denoise(
                    model,
                    scheduler,
                    counted,
                    latents,
                    conditions,
                    job.guidance_scale,
                    generator=generator,
                    start=start,
                )
        except Enough:
            return None
        final: Array = trace.final.numpy()
        return final

    return image
