"""Masks for a small pipeline."""

from __future__ import annotations

from dipgo_compile.mask import Mask, ModelRef, SchedulerRef
from dipgo_compile.models.source import load, make_scheduler
from dipgo_compile.schedules.schedulers import resolve_scheduler


def make_mask(source: str, scheduler_class: str, rows: tuple[str, ...]) -> Mask:
    """A mask for all blocks of the pipeline at ``source``, one row per denoiser call."""
    model = load(source)
    name, config = resolve_scheduler(scheduler_class, model)
    scheduler = make_scheduler(name, config)
    scheduler.set_timesteps(len(rows))
    return Mask(
        model=ModelRef(source, model.class_name, model.config_sha256),
        scheduler=SchedulerRef(name, config, len(rows), tuple(float(t) for t in scheduler.timesteps)),
        blocks=model.blocks(),
        keep=tuple(tuple(character == "1" for character in row) for row in rows),
        provenance={"method": "hand", "ratio": 0.5},
    )
