"""The compiled plan, as a user runs it."""

from __future__ import annotations

from dipgo_compile.program import Array
from dipgo_compile.rows import Image, Job
from dipgo_compile.runtime import Runtime


def load(job: Job) -> Image:
    latents, conditions, draws = job.inputs()
    session = Runtime.load(job.bundle, threads=job.threads).session()
    scale = 1.0 if job.guidance_scale is None else job.guidance_scale  # a plan without guidance ignores it

    def image() -> Array:
        return session.denoise(latents, conditions, guidance_scale=scale, draws=draws)

    return image
