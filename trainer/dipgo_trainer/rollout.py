"""One differentiable denoising loop under gates, with the memory of one call (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dipgo_compile.models.source import Model
from dipgo_trainer.chain import denoise
from dipgo_trainer.supernet import Cache, SuperNet


def full_chain(
    model: Model,
    net: SuperNet,
    scheduler: Any,
    latents: Tensor,
    conditions: Mapping[str, Tensor],
    guidance_scale: float | None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The final latents of the unpruned loop, without gradients."""

    def predict(call: int, inputs: dict[str, Tensor]) -> Tensor:
        net.reset()
        return model.predict(inputs)

    with torch.no_grad():
        return denoise(
            model, scheduler, predict, latents, conditions, guidance_scale, generator=generator
        ).final


def gated_chain(
    model: Model,
    net: SuperNet,
    scheduler: Any,
    gates: Tensor,
    latents: Tensor,
    conditions: Mapping[str, Tensor],
    guidance_scale: float | None,
    *,
    gradient_checkpointing: bool,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The final latents of the loop under ``gates`` (calls, blocks, 2), differentiable in them.

    With ``gradient_checkpointing`` a call is a function from (caches, sample) to (caches, noise prediction),
    and only these are kept for the backward pass, which must therefore run before ``net`` is left.
    """

    def run(cache: Cache, row: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, Cache]:
        net.cache = cache
        net.set_gates(row)
        return model.predict(inputs), net.cache

    def predict(call: int, inputs: dict[str, Tensor]) -> Tensor:
        if gradient_checkpointing:
            answer: Tensor
            answer, net.cache = checkpoint(
                run, net.cache, gates[call], inputs, use_reentrant=False, preserve_rng_state=False
            )
            return answer
        return run(net.cache, gates[call], inputs)[0]

    net.reset()
    return denoise(model, scheduler, predict, latents, conditions, guidance_scale, generator=generator).final
