"""The unpruned denoiser in eager PyTorch with the real diffusers scheduler, as a diffusers pipeline runs
it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from dipgo_trainer.chain import denoise, scheduler_of

from dipgo_compile.bundle import MASK
from dipgo_compile.mask import Mask
from dipgo_compile.models.source import load as load_model
from dipgo_compile.program import Array
from dipgo_compile.rows import Image, Job


def load(job: Job) -> Image:
    torch.set_num_threads(job.threads)
    mask = Mask.load(Path(job.bundle) / MASK)
    model, scheduler = load_model(job.source), scheduler_of(mask)
    noise, arrays, _ = job.inputs()
    latents = torch.from_numpy(noise)
    conditions = {name: torch.from_numpy(array) for name, array in arrays.items()}
    generator = torch.Generator().manual_seed(0)

    def predict(call: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        answer: torch.Tensor = model.denoiser(**inputs, return_dict=False)[0]
        return answer

    def image() -> Array:
        scheduler.set_timesteps(mask.scheduler.num_inference_steps)
        with torch.no_grad():
            trace = denoise(
                model, scheduler, predict, latents, conditions, job.guidance_scale, generator=generator
            )
        final: Array = trace.final.numpy()
        return final

    return image
