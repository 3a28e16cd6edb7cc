"""The mask in eager PyTorch: reused blocks are really skipped, everything around them is computed at every
call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from dipgo_trainer.chain import reference_chain

from dipgo_compile.bundle import MASK
from dipgo_compile.mask import Mask
from dipgo_compile.measure.rows import Countdown, Enough, Image, Job
from dipgo_compile.measure.rows.torch import Place, starting
from dipgo_compile.models.source import Model
from dipgo_compile.models.source import load as load_model
from dipgo_compile.program import Array


def load(job: Job) -> Image:
    return masked(job, lambda model, mask: None)


def masked(job: Job, prepare: Callable[[Model, Mask], None]) -> Image:
    """A row that follows the mask in PyTorch. ``prepare`` may change the model's blocks before."""
    torch.set_num_threads(job.threads)
    mask, place = Mask.load(Path(job.bundle) / MASK), Place.of(job)
    model = load_model(job.source)
    model.denoiser.to(place.device, place.dtype)
    prepare(model, mask)
    noise, arrays, _ = job.inputs()
    latents = place.put(noise)
    conditions = {name: place.put(array) for name, array in arrays.items()}
    generator = torch.Generator().manual_seed(0)
    start = starting(job, place)

    def image(calls: int | None = None) -> Array | None:
        counting = model.denoiser.register_forward_pre_hook(Countdown(calls))
        try:
            trace = reference_chain(
                model, mask, latents, conditions, job.guidance_scale, generator=generator, start=start
            )
        except Enough:
            place.wait()
            return None
        finally:
            counting.remove()
        return place.get(trace.final)

    return image
