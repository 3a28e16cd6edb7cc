"""``dipgo-compile train``: the command of the trainer, which is a package of its own."""

from __future__ import annotations

from dipgo_trainer.command import train

__all__ = ["train"]
