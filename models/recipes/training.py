"""The training loop that all recipes share: warm-up and cosine, EMA, log, checkpoints, resume."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm

from models.recipes.saving import replace_file

LossFunction = Callable[[torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train. `warmup` and `checkpoint_every` count steps."""

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    checkpoint_every: int = 500
    seed: int = 0

    def rate_factor(self, step: int) -> float:
        """The share of `learning_rate` used at `step`: a linear warm-up, then a cosine down to zero."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class TrainingLoop:
    """Trains `module` on `loss`, keeping `checkpoint.pt` and `log.jsonl` in `directory`.

    All randomness of a step is drawn from a generator seeded with (seed, step), so that a resumed run
    sees the batches and the noise that an uninterrupted one would have seen.
    """

    def __init__(self, module: nn.Module, loss: LossFunction, settings: LoopSettings, directory: Path):
        self.module, self.loss, self.settings, self.directory = module, loss, settings, directory
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, settings.rate_factor)
        self.ema = EMAModel(module.parameters(), decay=settings.ema_decay, foreach=True)
        self.step = 0
        self.seconds = 0.0

    @property
    def checkpoint_path(self) -> Path:
        return self.directory / "checkpoint.pt"

    def run(self, resume: bool, on_checkpoint: Callable[[], None] | None = None) -> None:
        """Train to the last step; on Ctrl-C finish the step, save, and raise KeyboardInterrupt.

        `on_checkpoint` runs after each checkpoint, with the EMA weights in the module.
        """
        if resume and self.checkpoint_path.exists():
            self._load()
        elif not resume:
            (self.directory / "log.jsonl").unlink(missing_ok=True)
        self.module.train()
        with _deferred_interrupt() as interrupted:
            remaining = range(self.step, self.settings.steps)
            for _ in tqdm(remaining, initial=self.step, total=self.settings.steps):
                self._advance()
                last = self.step == self.settings.steps or interrupted()
                if last or self.step % self.settings.checkpoint_every == 0:
                    self._save()
                    if on_checkpoint:
                        with self.ema_weights():
                            on_checkpoint()
                if interrupted():
                    raise KeyboardInterrupt

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """The module in evaluation mode with its averaged weights, for as long as the context lasts."""
        self.ema.store(self.module.parameters())
        self.ema.copy_to(self.module.parameters())
        self.module.eval()
        try:
            yield
        finally:
            self.ema.restore(self.module.parameters())
            self.module.train()

    def _advance(self) -> None:
        start = time.monotonic()
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        loss = self.loss(generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), max_norm=1.0)
        self.optimizer.step()
        self.schedule.step()
        self.ema.step(self.module.parameters())
        self.step += 1
        self.seconds += time.monotonic() - start
        if self.step % 20 == 0 or self.step == self.settings.steps:
            self._log(loss.item())

    def _log(self, loss: float) -> None:
        record = {
            "step": self.step,
            "loss": round(loss, 5),
            "learning_rate": self.schedule.get_last_lr()[0],
            "seconds": round(self.seconds, 1),
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict(),
        }
        replace_file(self.checkpoint_path, lambda path: torch.save(state, path))

    def _load(self) -> None:
        state = torch.load(self.checkpoint_path, weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        for name in ("module", "optimizer", "schedule", "ema"):
            getattr(self, name).load_state_dict(state[name])


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that a step is never cut in half; a second one kills."""
    pressed = []

    def on_signal(*_: object) -> None:
        pressed.append(True)
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
