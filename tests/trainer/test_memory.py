"""Checkpointing per call: what is kept for the backward pass grows with the caches only."""

from __future__ import annotations

import pytest
import torch
from dipgo_trainer.rollout import gated_chain
from dipgo_trainer.supernet import SuperNet
from tiny_models import conditions_of, noise_of, scheduler_ref
from torch.utils._pytree import tree_leaves

from dipgo_compile.models.source import Model, make_scheduler


class Bytes(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of the storages that live, by keeping weak track of every tensor that an operation
    makes."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, torch.multiprocessing.reductions.StorageWeakRef] = {}
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                reference = torch.multiprocessing.reductions.StorageWeakRef(storage)
                self.live[reference.cdata] = reference
                self.sizes[reference.cdata] = storage.nbytes()
        return result

    def total(self) -> int:
        return sum(self.sizes[key] for key, reference in self.live.items() if not reference.expired())


def held_after_forward(model: Model, steps: int, checkpointing: bool) -> tuple[int, int]:
    """Bytes alive between forward and backward, and bytes of one call's cache."""
    schedule = scheduler_ref(steps)
    scheduler = make_scheduler(schedule.class_name, schedule.config)
    scheduler.set_timesteps(steps)
    blocks = model.blocks()
    gates = torch.tensor([0.0, 1.0]).repeat(steps, len(blocks), 1).requires_grad_()
    with SuperNet(model.denoiser, blocks) as net, Bytes() as count:
        final = gated_chain(
            model,
            net,
            scheduler,
            gates,
            noise_of(),
            conditions_of(model),
            3.0,
            gradient_checkpointing=checkpointing,
        )
        cache = sum(leaf.nbytes for entry in net.cache if entry for leaf in entry.leaves)
        held = count.total()
    assert final.requires_grad
    return held, cache


@pytest.mark.parametrize("calls", [20])
def test_memory_per_call_is_the_cache(unet: Model, calls: int) -> None:
    few, cache = held_after_forward(unet, 5, True)
    many, _ = held_after_forward(unet, calls, True)
    per_call = (many - few) / (calls - 5)
    # A call keeps its caches, its inputs (latents, timestep) and outputs, and the scheduler's few latents.
    latents = noise_of().nbytes
    assert per_call <= cache + 20 * latents
    without_few, _ = held_after_forward(unet, 5, False)
    without_many, _ = held_after_forward(unet, calls, False)
    assert (without_many - without_few) / (calls - 5) > 4 * per_call, "the measurement sees activations"
