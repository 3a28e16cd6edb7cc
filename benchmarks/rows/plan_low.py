"""The plan in the memory mode ``low``, which frees activations as soon as they are read."""

from __future__ import annotations

from dataclasses import replace

from dipgo_compile.measure.rows import Image, Job, plan


def load(job: Job) -> Image:
    return plan.load(replace(job, memory="low"))
