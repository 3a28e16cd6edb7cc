"""What the tests know of an exported denoiser, and masks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dipgo_compile.graphs.candidates import pattern_of
from dipgo_compile.mask import Mask
from dipgo_compile.models.onnx_file import OnnxModel, open_onnx
from dipgo_compile.models.reading import Reading
from dipgo_compile.schedules.schedulers import scheduler_ref

STEPS = {"heun": lambda calls: (calls + 1) // 2, "plms": lambda calls: calls - 1}  # the others: as many


@dataclass(frozen=True)
class File:
    """An exported denoiser, what has to be told of it, and the module it was exported from."""

    path: Path
    reading: Reading
    module: torch.nn.Module

    def open(self, **told: Any) -> OnnxModel:
        return open_onnx(str(self.path), Reading(**told).over(self.reading))


def make_mask(model: OnnxModel, rows: tuple[str, ...], scheduler: str, blocks: tuple[str, ...] = ()) -> Mask:
    """A mask of these rows, one per call of the scheduler, of the suggested blocks or of these."""
    blocks = blocks or model.blocks()
    steps = STEPS.get(scheduler, lambda calls: calls)(len(rows))
    return Mask(
        model.ref(),
        scheduler_ref(scheduler, model, steps),
        blocks,
        tuple(tuple(character == "1" for character in row) for row in rows),
        provenance={"blocks": pattern_of(blocks, model.scopes)},
    )
