"""Training a pruner for one denoiser, scheduler and number of steps (paper, section 3.4)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dipgo_compile.errors import DipgoError, InputError
from dipgo_compile.mask import Mask, ModelRef, Reuse, SchedulerRef
from dipgo_compile.masks.heatmap import draw_heatmap
from dipgo_compile.models.source import Model, make_scheduler
from dipgo_trainer.cascade import Topology
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.curves import draw_loss_curve
from dipgo_trainer.files import (
    RunFiles,
    StepRecord,
    append_record,
    load_checkpoint,
    read_records,
    save_checkpoint,
    uninterrupted,
    write_records,
)
from dipgo_trainer.losses import CONSISTENCY, consistency_weight, sparsity
from dipgo_trainer.postprocess import threshold_scores
from dipgo_trainer.pruner import Pruner, keep_scores, straight_through
from dipgo_trainer.rollout import full_chain, gated_chain
from dipgo_trainer.samples import Batch, Conditions, make_batch, order_of
from dipgo_trainer.supernet import SuperNet

CALIBRATION_BATCHES = 4

Decode = Callable[[Tensor], Tensor]
"""From latents to images, differentiable."""


class InterruptedTrainingError(DipgoError):
    """The user stopped a run; its checkpoint is on disk."""

    exit_code = 130


@dataclass(frozen=True)
class Task:
    """What is to be pruned: a denoiser in a schedule, and its blocks.

    ``decode`` is needed for the loss in image space only. ``notes`` go into the mask's provenance.
    """

    model: Model
    scheduler: SchedulerRef
    topology: Topology
    conditions: Conditions
    reuse: Reuse = "output"
    decode: Decode | None = None
    notes: Mapping[str, Any] | None = None

    def make_scheduler(self) -> Any:
        scheduler = make_scheduler(self.scheduler.class_name, self.scheduler.config)
        scheduler.set_timesteps(self.scheduler.num_inference_steps)
        return scheduler


def train(
    task: Task,
    config: TrainConfig,
    files: RunFiles,
    *,
    resume: bool = False,
    checkpoint_every: int = 50,
    progress: Callable[[StepRecord], None] = lambda record: None,
) -> Mask:
    """Train, post-process, and write the mask with its log and pictures.

    ``progress`` is called after each step. Raises InterruptedTrainingError on Ctrl-C, after writing a
    checkpoint; ``resume`` goes on from there and gives the same scores as a run that was never stopped.
    Raises InputError when the checkpoint belongs to another run, MaskError when no mask has the asked-for
    ratio.
    """
    trainer = Trainer(task, config)
    if resume:
        trainer.restore(load_checkpoint(files.checkpoint))
    write_records(files.log, read_records(files.log)[: trainer.step])
    save = partial(_save, trainer, files)
    with SuperNet(task.model.denoiser, task.topology.blocks, task.reuse) as net:
        try:
            while trainer.step < config.train_steps:
                record = trainer.advance(net)
                append_record(files.log, record)
                progress(record)
                if trainer.step % checkpoint_every == 0:
                    save()
        except KeyboardInterrupt:
            save()
            raise InterruptedTrainingError(
                f"interrupted after {trainer.step} of {config.train_steps} training steps",
                where=files.checkpoint,
                mend="give the same command with --resume to go on from here",
            ) from None
    save()
    mask = trainer.mask()
    mask.save(files.mask)
    draw_heatmap(mask, files.heatmap)
    draw_loss_curve(read_records(files.log), files.loss_curve)
    return mask


class Trainer:
    """The pruner and what moves it, one step at a time."""

    def __init__(self, task: Task, config: TrainConfig) -> None:
        if config.space == "image" and task.decode is None:
            raise InputError("the loss in image space needs the pipeline's decoder", where=task.model.source)
        self.task = task
        self.config = config
        self.step = 0
        calls, blocks = len(task.scheduler.timesteps), len(task.topology.blocks)
        self.pruner = Pruner(calls, blocks, seed=config.seed)
        self._base_lr = config.learning_rate(task.model.class_name)
        self._optimizer = torch.optim.SGD(
            self.pruner.parameters(), lr=self._base_lr, weight_decay=config.weight_decay
        )
        self._weights = task.topology.weights()
        self._weight = config.consistency_weight
        self._pool: dict[int, tuple[Batch, Tensor]] = {}

    def advance(self, net: SuperNet) -> StepRecord:
        """One optimisation step; interrupted at any point, it happens whole or not at all."""
        started = time.perf_counter()
        lr = self._base_lr * self.config.lr_factor(self.step)
        batch, full = self._sample(net, order_of(self.config, self.step))
        logits = self.pruner()
        keep = self.task.topology.cascade(logits.detach().argmax(-1) == 1)
        gates = straight_through(logits, keep)
        pruned = self._in_space(self._gated(net, gates, batch))
        consistency = CONSISTENCY[self.config.loss](pruned, full)
        sparse = sparsity(gates, self._weights)
        kept = self.task.topology.kept_share(keep)
        loss = self._consistency_weight(net) * consistency
        if kept > self.config.sparsity_floor_at(self.step):
            loss = loss + self.config.alpha * sparse
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with uninterrupted():
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
            self.step += 1
        seconds = time.perf_counter() - started
        return StepRecord(self.step, loss.item(), consistency.item(), sparse.item(), kept, lr, seconds)

    def mask(self) -> Mask:
        """The mask of the scores as they are now."""
        task, config = self.task, self.config
        scores = self.scores()
        keep = threshold_scores(scores, task.topology, config.ratio)
        return Mask(
            model=ModelRef(task.model.source, task.model.class_name, task.model.config_sha256),
            scheduler=task.scheduler,
            blocks=task.topology.blocks,
            keep=keep,
            reuse=task.reuse,
            provenance={
                "method": "dip-go",
                "pruned_macs": round(1 - task.topology.kept_share(torch.tensor(keep)), 6),
                **config.to_json(),
                "lr": self._base_lr,
                "tau": config.sparsity_floor,
                **(task.notes or {}),
                "scores": [[round(score, 6) for score in row] for row in scores.tolist()],
            },
        )

    def scores(self) -> Tensor:
        """Keep probabilities, (calls, blocks)."""
        with torch.no_grad():
            return keep_scores(self.pruner())

    def state(self) -> dict[str, Any]:
        """Everything a run needs to go on; SGD without momentum has no state of its own."""
        return {
            "step": self.step,
            "config": self.config.to_json(),
            "task": self._identity(),
            "pruner": self.pruner.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises InputError when it belongs to another run."""
        different = self.config.differences(state["config"])
        if state["task"] != self._identity():
            different.append("another model, scheduler, number of steps or set of blocks")
        if different:
            raise InputError(
                "the checkpoint belongs to a run with other options: " + "; ".join(different),
                mend="give the options of that run, or start without --resume",
            )
        self.pruner.load_state_dict(state["pruner"])
        self.step = int(state["step"])

    def _identity(self) -> str:
        task = self.task
        scheduler = replace(task.scheduler, config=dict(sorted(task.scheduler.config.items())))
        described = (task.model.source, task.model.config_sha256, scheduler, task.topology.blocks, task.reuse)
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def _sample(self, net: SuperNet, index: int) -> tuple[Batch, Tensor]:
        """A batch of the pool with the full chain's result; that never changes, so it is computed once."""
        if index not in self._pool:
            batch = make_batch(self.task.model, self.task.conditions, self.config, index)
            full = full_chain(
                self.task.model,
                net,
                self.task.make_scheduler(),
                batch.latents,
                batch.conditions,
                self.config.guidance_scale,
                batch.generator(),
            )
            self._pool[index] = (batch, full)
        batch, full = self._pool[index]
        with torch.no_grad():
            return batch, self._in_space(full)

    def _consistency_weight(self, net: SuperNet) -> float:
        """Measured once, on the first batches of the pool, so a resumed run finds the same."""
        if self._weight is None:
            calls, blocks = len(self.task.scheduler.timesteps), len(self.task.topology.blocks)
            count = max(1, round((1 - self.config.ratio) * calls))
            keep = torch.zeros(calls, blocks, dtype=torch.bool)
            keep[torch.arange(count) * calls // count] = True
            gates = torch.stack([~keep, keep], -1).float()
            losses = []
            with torch.no_grad():
                for index in range(min(CALIBRATION_BATCHES, self.config.samples)):
                    batch, full = self._sample(net, index)
                    even = self._in_space(self._gated(net, gates, batch))
                    losses.append(
                        [CONSISTENCY[self.config.loss](result, full).item() for result in (full, even)]
                    )
            at_full, of_even = (sum(column) / len(losses) for column in zip(*losses, strict=True))
            self._weight = consistency_weight(at_full, of_even, self.config.ratio)
        return self._weight

    def _gated(self, net: SuperNet, gates: Tensor, batch: Batch) -> Tensor:
        return gated_chain(
            self.task.model,
            net,
            self.task.make_scheduler(),
            gates,
            batch.latents,
            batch.conditions,
            self.config.guidance_scale,
            gradient_checkpointing=self.config.gradient_checkpointing,
            generator=batch.generator(),
        )

    def _in_space(self, latents: Tensor) -> Tensor:
        if self.config.space == "latent" or self.task.decode is None:
            return latents
        return self.task.decode(latents)


def _save(trainer: Trainer, files: RunFiles) -> None:
    with uninterrupted():
        save_checkpoint(files.checkpoint, trainer.state())
