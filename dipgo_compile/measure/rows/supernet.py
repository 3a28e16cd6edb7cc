"""The mask in eager PyTorch: reused blocks are really skipped, everything around them is computed at every
call.
"""

from __future__ import annotations

from pathlib import Path

import torch
from dipgo_trainer.chain import reference_chain

from dipgo_compile.bundle import MASK
from dipgo_compile.mask import Mask
from dipgo_compile.measure.rows import Countdown, Enough, Image, Job
from dipgo_compile.measure.rows.torch import starting
from dipgo_compile.models.source import load as load_model
from dipgo_compile.program import Array


def load(job: Job) -> Image:
    torch.set_num_threads(job.threads)
    mask = Mask.load(Path(job.bundle) / MASK)
    model = load_model(job.source)
    noise, arrays, _ = job.inputs()
    latents = torch.from_numpy(noise)
    conditions = {name: torch.from_numpy(array) for name, array in arrays.items()}
    generator = torch.Generator().manual_seed(0)
    start = starting(job)

    def image(calls: int | None = None) -> Array | None:
        counting = model.denoiser.register_forward_pre_hook(Countdown(calls))
        try:
            trace = reference_chain(
                model, mask, latents, conditions, job.guidance_scale, generator=generator, start=start
            )
        except Enough:
            return None
        finally:
            counting.remove()
        final: Array = trace.final.numpy()
        return final

    return image
