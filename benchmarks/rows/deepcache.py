"""The DeepCache package in eager PyTorch, with the interval and the branch that the bundle's mask stands for.

The package wraps the denoiser of a pipeline and reads the pipeline's scheduler; that is all it wants of a
pipeline.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from DeepCache import DeepCacheSDHelper
from dipgo_trainer.chain import Predict

from dipgo_compile.mask import Mask
from dipgo_compile.measure.rows import Image, Job
from dipgo_compile.measure.rows.torch import chain
from dipgo_compile.models.source import Model


def load(job: Job) -> Image:
    return chain(job, cached)


def cached(model: Model, mask: Mask, scheduler: Any) -> Predict:
    """The denoiser under the package's wrappers, which stay on: the first timestep fills the cache anew."""
    asked = mask.provenance
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=model.denoiser, scheduler=scheduler))
    helper.set_params(cache_interval=asked["interval"], cache_branch_id=asked["branch"])
    helper.enable()

    def predict(call: int, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        conditions = {name: inputs[name] for name in inputs if name not in ("sample", "timestep")}
        # The helper looks the timestep up in the scheduler's, and finds it by position among the arguments.
        answer: torch.Tensor = model.denoiser(
            inputs["sample"], scheduler.timesteps[call], **conditions, return_dict=False
        )[0]
        return answer

    return predict
