"""The unpruned denoiser in eager PyTorch with the real diffusers scheduler, as a diffusers pipeline runs
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dipgo_trainer.chain import Predict, Start, denoise, scheduler_of

from dipgo_compile.bundle import MASK, open_bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.mask import Mask
from dipgo_compile.measure.rows import Countdown, Enough, Image, Job
from dipgo_compile.models.source import Model
from dipgo_compile.models.source import load as load_model
from dipgo_compile.program import Array


@dataclass(frozen=True)
class Place:
    """Where PyTorch computes and in what type: as the plan does, on a GPU; in float32 on the CPU."""

    device: str
    dtype: torch.dtype

    @classmethod
    def of(cls, job: Job) -> Place:
        """Raises BackendError where the plan is for a GPU that PyTorch doesn't find."""
        target = open_bundle(job.bundle, verify=False).plan.target
        if target.provider != "cuda":
            return cls("cpu", torch.float32)
        if not torch.cuda.is_available():
            raise BackendError(
                "PyTorch finds no GPU", mend="install its build for CUDA, or leave its rows out"
            )
        return cls("cuda", torch.float16 if target.precision == "fp16" else torch.float32)

    def put(self, array: Array) -> torch.Tensor:
        """Floats in the type of the place, everything else as it is."""
        tensor = torch.from_numpy(array)
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def get(self, tensor: torch.Tensor) -> Array:
        """In float32, when all that it depends on is computed."""
        array: Array = tensor.float().cpu().numpy()
        return array

    def wait(self) -> None:
        """Until what was started is computed."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def load(job: Job) -> Image:
    return chain(job, lambda model, mask, scheduler: predictor(model, model.denoiser))


def predictor(model: Model, denoiser: Callable[..., Any]) -> Predict:
    """A denoiser, the model's own or made of it, that is called as diffusers calls it."""

    def predict(call: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        answer: torch.Tensor = denoiser(**model.family.arguments(inputs), return_dict=False)[0]
        return answer

    return predict


def starting(job: Job, place: Place) -> Start | None:
    """Where the loop of an image-to-image bundle begins."""
    latents = job.image_latents()
    if job.start_step is None or latents is None:
        return None
    return Start(job.start_step, place.put(latents))


def chain(job: Job, prepare: Callable[[Model, Mask, Any], Predict]) -> Image:
    """A row that denoises in PyTorch. ``prepare`` makes its denoiser from the model, the bundle's mask and
    the scheduler that will be used.
    """
    torch.set_num_threads(job.threads)
    mask, place = Mask.load(Path(job.bundle) / MASK), Place.of(job)
    model, scheduler = load_model(job.source), scheduler_of(mask)
    model.denoiser.to(place.device, place.dtype)
    predict = prepare(model, mask, scheduler)
    noise, arrays, _ = job.inputs()
    latents = place.put(noise)
    conditions = {name: place.put(array) for name, array in arrays.items()}
    generator = torch.Generator().manual_seed(0)
    start = starting(job, place)

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
            place.wait()
            return None
        return place.get(trace.final)

    return image
