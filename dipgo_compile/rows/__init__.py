"""What ``bench`` times, one module per row: ``load(job)`` answers with a function that makes one image's
latents.

Each runs in a process of its own (``bench_worker.py``) and imports only what it needs: its memory and the
time it takes to load hold no other row's libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dipgo_compile.program import Array

Image = Callable[[], Array]
"""Denoises one batch; answers with the final latents."""

ROWS = ("plan", "dense", "torch", "supernet")
INPUTS, SCHEDULE, DENSE = "inputs.npz", "schedule.json", "dense.onnx"
LATENTS = "latents"
CONDITION, DRAW = "condition.", "draw."


@dataclass(frozen=True)
class Job:
    """What a row is to do. ``workspace`` holds what was prepared for all rows: inputs, schedule, dense
    graph.
    """

    bundle: str
    source: str
    workspace: str
    threads: int
    guidance_scale: float | None

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
