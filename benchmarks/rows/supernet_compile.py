"""The mask in PyTorch with every block compiled by ``torch.compile``. Reused blocks are skipped, and what
lies between the blocks stays eager: what a user of PyTorch gets from a mask without another compiler.

On a GPU the mode tries kernels, but captures no CUDA graphs: a replay overwrites what the one before gave,
and a reused block's results are read later.
"""

from __future__ import annotations

import torch

from dipgo_compile.mask import Mask
from dipgo_compile.measure.rows import Image, Job
from dipgo_compile.measure.rows.supernet import masked
from dipgo_compile.models.source import Model


def load(job: Job) -> Image:
    return masked(job, compile_blocks)


def compile_blocks(model: Model, mask: Mask) -> None:
    """Each by itself; on the CPU in the default mode."""
    on_gpu = next(model.denoiser.parameters()).is_cuda
    for scope in mask.blocks:
        block = model.denoiser.get_submodule(scope)
        block.forward = torch.compile(block.forward, mode="max-autotune-no-cudagraphs" if on_gpu else None)
