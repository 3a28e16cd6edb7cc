"""The compiled plan, as a user runs it."""

from __future__ import annotations

from typing import Any

from dipgo_compile.measure.rows import Countdown, Enough, Image, Job
from dipgo_compile.program import Array
from dipgo_compile.runtime import Runtime


def load(job: Job) -> Image:
    latents, conditions, draws = job.inputs()
    image_latents = job.image_latents()
    options: dict[str, Any] = {} if job.memory is None else {"memory": job.memory}
    session = Runtime.load(job.bundle, threads=job.threads, shape=job.shape, **options).session()
    scale = 1.0 if job.guidance_scale is None else job.guidance_scale  # a plan without guidance ignores it

    def image(calls: int | None = None) -> Array | None:
        callback = None if calls is None else Countdown(calls)
        try:
            return session.denoise(
                latents,
                conditions,
                guidance_scale=scale,
                draws=draws,
                image_latents=image_latents,
                callback=callback,
            )
        except Enough:
            return None

    return image
