"""The unpruned denoiser compiled by ``torch.compile``: on the CPU in its default mode, on a GPU with
``max-autotune``, which tries kernels and captures CUDA graphs. Its first call compiles, for minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dipgo_compile.measure.rows import Image, Job
from dipgo_compile.measure.rows.torch import chain, predictor


def load(job: Job) -> Image:
    return chain(job, lambda model, mask, scheduler: predictor(model, compiled(model.denoiser, model)))


def compiled(function: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """``function``, which computes with the weights of ``model``, compiled for where they are."""
    on_gpu = next(model.denoiser.parameters()).is_cuda
    made: Callable[..., Any] = torch.compile(function, mode="max-autotune" if on_gpu else None)
    return made
