"""From a MODEL specifier to a trained mask: loads what training needs, shows progress, and notes where it
came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dipgo_compile.commands.progress import counter
from dipgo_compile.errors import InputError, MaskError
from dipgo_compile.mask import Mask, Reuse
from dipgo_compile.masks.checks import matching_scopes
from dipgo_compile.models.source import Model, executed_scopes, load, load_pipeline
from dipgo_compile.schedules.schedulers import scheduler_ref
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.files import RunFiles, StepRecord
from dipgo_trainer.samples import (
    Conditions,
    class_conditions,
    random_conditions,
    read_prompts,
    text_conditions,
)
from dipgo_trainer.topology import topology_of
from dipgo_trainer.train import Decode, Task, train


@dataclass(frozen=True)
class Schedule:
    """Denoising steps, and a scheduler by short or class name (None: the model's own)."""

    steps: int
    scheduler: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which module scopes are blocks: those of a granularity, or those that ``pattern`` matches whole."""

    granularity: str = "block"
    pattern: str | None = None
    reuse: Reuse = "output"


def run(
    source: str,
    output: Path,
    config: TrainConfig,
    schedule: Schedule,
    selection: Selection,
    *,
    prompts: Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 50,
    log: Path | None = None,
) -> Mask:
    """Train a mask for a model specifier and write it to ``output``. Raises DipgoError."""
    files = RunFiles.beside(output, log)
    task = make_task(load(source), config, schedule, selection, prompts)
    with counter("the first step runs the full chain too") as count:

        def show(record: StepRecord) -> None:
            text = f"consistency {record.consistency:.4f}  MACs kept {record.kept:.3f}"
            count(record.step, config.train_steps, text)

        return train(task, config, files, resume=resume, checkpoint_every=checkpoint_every, progress=show)


def make_task(
    model: Model, config: TrainConfig, schedule: Schedule, selection: Selection, prompts: Path | None = None
) -> Task:
    """A task for a loaded model. Raises InputError when a text-to-image model gets no prompts."""
    notes: dict[str, Any] = {"torch": torch.__version__, "blocks": selection.pattern or selection.granularity}
    if prompts is not None:
        notes |= {"prompts": prompts.name, "prompts_sha256": hashlib.sha256(prompts.read_bytes()).hexdigest()}
    conditions, decode = _surroundings(model, config, prompts)
    return Task(
        model=model,
        scheduler=scheduler_ref(schedule.scheduler, model, schedule.steps),
        topology=topology_of(model, choose_blocks(model, selection), selection.reuse),
        conditions=conditions,
        reuse=selection.reuse,
        decode=decode,
        notes=notes,
    )


def choose_blocks(model: Model, selection: Selection) -> tuple[str, ...]:
    """The module scopes to prune, in execution order. Raises MaskError when the pattern matches none."""
    if selection.pattern is None:
        return model.blocks(selection.granularity)
    blocks = matching_scopes(selection.pattern, executed_scopes(model))
    if not blocks:
        raise MaskError(f"no module scope matches {selection.pattern!r} whole", available=model.blocks())
    return blocks


def _surroundings(
    model: Model, config: TrainConfig, prompts: Path | None
) -> tuple[Conditions, Decode | None]:
    """Conditions, and the image decoder where the loss needs it."""
    if model.source.startswith("random:"):
        return random_conditions(model, config.seed), None
    classes = model.family.unconditional_classes(model.config) is not None
    if not classes and prompts is None:
        raise InputError(f"{model.source} draws from text", mend="pass --prompts FILE, one prompt a line")
    pipeline = load_pipeline(model.source) if not classes or config.space == "image" else None
    decode = _decoder(pipeline) if config.space == "image" else None
    if classes:
        return class_conditions(model, config.seed), decode
    assert prompts is not None
    return text_conditions(model, pipeline, read_prompts(prompts)), decode


def _decoder(pipeline: Any) -> Decode:
    """Latents to images in -1..1, with gradients, through the frozen autoencoder."""
    vae = pipeline.vae.eval().requires_grad_(False)

    def decode(latents: Tensor) -> Tensor:
        images: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return images

    return decode
