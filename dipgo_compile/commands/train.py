"""``dipgo-compile train``: the trainer is a package of its own, which a machine that only compiles need not have."""

from __future__ import annotations

from dipgo_trainer.command import train

__all__ = ["train"]
