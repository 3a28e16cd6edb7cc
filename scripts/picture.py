"""The demo's picture: unpruned and pruned images side by side, drawn from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Row:
    """Images of one model, one a column, and what stands to their left."""

    label: str
    images: Sequence[Path]


def draw_rows(rows: Sequence[Row], columns: Sequence[str], title: str, output: Path) -> None:
    """Draw a table of images. All rows have an image for each of ``columns``."""
    from matplotlib.figure import Figure

    size = 1.05  # inches an image
    figure = Figure(
        figsize=(size * len(columns) + 1.6, size * len(rows) + 0.75), dpi=150, layout="constrained"
    )
    figure.suptitle(title, fontsize=12, fontweight="bold")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        line[0].set_ylabel(row.label, rotation=0, ha="right", va="center", labelpad=8, fontsize=9)
        for path, axis in zip(row.images, line, strict=True):
            axis.imshow(Image.open(path), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    for column, axis in zip(columns, axes[0], strict=True):
        axis.set_title(column, fontsize=9)
    figure.savefig(output)
