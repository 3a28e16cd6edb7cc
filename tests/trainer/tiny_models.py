"""Masks, inputs and topologies for denoisers of a few thousand weights."""

from __future__ import annotations

import torch
from dipgo_trainer.cascade import Topology

from dipgo_compile.mask import Keep, Mask, ModelRef, SchedulerRef
from dipgo_compile.models.source import Model, example_inputs, make_scheduler
from tests.families.tiny import SCHEDULER, SCHEDULER_CONFIG


def conditions_of(model: Model, images: int = 1, guided: bool = True) -> dict[str, torch.Tensor]:
    """Random conditions, batched for guidance."""
    specs = model.inputs(model.geometry(images * (1 + guided)))
    return example_inputs(tuple(spec for spec in specs if spec.role == "condition"), seed=1)


def noise_of(images: int = 1, seed: int = 2) -> torch.Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def scheduler_ref(steps: int, class_name: str = SCHEDULER) -> SchedulerRef:
    scheduler = make_scheduler(class_name, SCHEDULER_CONFIG)
    scheduler.set_timesteps(steps)
    config = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    return SchedulerRef(class_name, config, steps, tuple(float(t) for t in scheduler.timesteps))


def mask_of(
    model: Model, blocks: tuple[str, ...], keep: Keep, schedule: SchedulerRef, reuse: str = "output"
) -> Mask:
    return Mask(ModelRef(model.source, model.class_name, model.config_sha256), schedule, blocks, keep, reuse)  # type: ignore[arg-type]


def chain_topology(blocks: tuple[str, ...], macs: tuple[int, ...] | None = None, glue: int = 10) -> Topology:
    """Blocks one after the other, each read by the next, the last by the output."""
    following = (*blocks[1:], None)
    consumers = {block: frozenset({reader}) for block, reader in zip(blocks, following, strict=True)}
    return Topology(blocks, consumers, macs or (100,) * len(blocks), glue)
