"""The plan in the memory mode ``fast``, which fills its memory before the first image."""

from __future__ import annotations

from dataclasses import replace

from dipgo_compile.measure.rows import Image, Job, plan


def load(job: Job) -> Image:
    return plan.load(replace(job, memory="fast"))
