"""The unpruned denoiser compiled by ``torch.compile`` in its default mode. Its first call compiles, for
minutes."""

from __future__ import annotations

import torch

from dipgo_compile.measure.rows import Image, Job
from dipgo_compile.measure.rows.torch import chain, predictor


def load(job: Job) -> Image:
    return chain(job, lambda model, mask, scheduler: predictor(model, torch.compile(model.denoiser)))
