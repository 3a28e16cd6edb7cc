"""What ``bench`` times, one module per row: ``load(job)`` answers with a function that makes one image's
latents.

Each runs in a process of its own (``measure/worker.py``) and imports only what it needs: its memory and the
time it takes to load hold no other row's libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dipgo_compile.program import Array


class Image(Protocol):
    """Denoises one batch."""

    def __call__(self, calls: int | None = None) -> Array | None:
        """The final latents. With ``calls`` it stops after so many calls of the denoiser, those that compute
        nothing left out, and answers None if that was too early for the latents.
        """
        ...


class Enough(Exception):
    """Ends an image before its last call."""


class Countdown:
    """To be called before every denoiser call: raises Enough when ``calls`` have been made. None: never."""

    def __init__(self, calls: int | None) -> None:
        self._left = calls

    def __call__(self, *_: object) -> None:
        if self._left is None:
            return
        if self._left == 0:
            raise Enough
        self._left -= 1


ROWS = ("plan", "dense", "torch", "supernet")
INPUTS, SCHEDULE, DENSE, SHAPES = "inputs.npz", "schedule.json", "dense.onnx", "dense.json"
LATENTS, IMAGE_LATENTS = "latents", "image_latents"
CONDITION, DRAW = "condition.", "draw."


@dataclass(frozen=True)
class Job:
    """What a row is to do. ``workspace`` holds what was prepared for all rows: inputs, schedule, dense
    graph. ``memory`` is the plan's trade of memory for speed (``Runtime.load``), None its own choice.
    ``start_step`` is where an image-to-image plan begins. ``shape`` is the bundle's that is timed, None its
    first.
    """

    bundle: str
    source: str
    workspace: str
    threads: int
    guidance_scale: float | None
    memory: str | None = None
    start_step: int | None = None
    shape: str | None = None

    def inputs(self) -> tuple[Array, dict[str, Array], list[Array]]:
        """Unit noise, conditions by name, draws."""
        with np.load(Path(self.workspace) / INPUTS) as stored:
            arrays = dict(stored)
        conditions = {
            name.removeprefix(CONDITION): array
            for name, array in arrays.items()
            if name.startswith(CONDITION)
        }
        draws = [array for name, array in arrays.items() if name.startswith(DRAW)]
        return arrays[LATENTS], conditions, draws

    def image_latents(self) -> Array | None:
        """What an image-to-image plan begins with."""
        with np.load(Path(self.workspace) / INPUTS) as stored:
            return dict(stored).get(IMAGE_LATENTS)
