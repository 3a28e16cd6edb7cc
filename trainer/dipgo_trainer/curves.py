"""The picture of a run: losses and the kept share of the MACs, against the training step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dipgo_trainer.files import StepRecord, replacing


def draw_loss_curve(records: Sequence[StepRecord], path: Path) -> None:
    """A PNG with two panels that share the step axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: no global state, no window system
    losses, shares = figure.subplots(2, sharex=True)
    steps = [record.step for record in records]
    losses.plot(steps, [record.consistency for record in records], linewidth=1)
    losses.set_ylabel("consistency loss")
    shares.plot(steps, [record.kept for record in records], linewidth=1)
    shares.set_ylabel("kept share of MACs")
    shares.set_xlabel("training step")
    shares.set_ylim(0, 1.02)
    for axes in (losses, shares):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
