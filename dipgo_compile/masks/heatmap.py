"""A mask as a picture and as text: blocks against calls, computed or reused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dipgo_compile.errors import MaskError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dipgo_compile.macs.counts import Macs
    from dipgo_compile.mask import Mask

COMPUTED, REUSED = "#0b5394", "#e9e5db"  # far apart in lightness: told apart without colour, too
INK = "#333333"
REUSES = {"output": "the last output", "residual": "the last residual (output minus input)"}


def grid_text(mask: Mask, macs: Macs | None = None) -> str:
    """The mask for a terminal: one line a block, one character a call, and what it saves."""
    width = max(map(len, (*mask.blocks, "ideal speedup")))
    lines = [
        f"{block:>{width}}  {''.join('·█'[row[index]] for row in mask.keep)}  {share:4.0%}"
        for index, (block, share) in enumerate(zip(mask.blocks, mask.kept_by_block, strict=True))
    ]
    whole = sum(all(row) for row in mask.keep)
    early, middle, late = mask.kept_by_third
    facts = [
        ("calls", f"{mask.calls}: {whole} whole, {len(mask.idle_calls)} compute no block"),
        ("patterns", f"{len(mask.patterns)} distinct rows"),
        ("thirds", f"{early:.0%}, {middle:.0%}, {late:.0%} of the blocks, in the first, middle, last calls"),
        ("reuse", REUSES[mask.reuse]),
    ]
    if macs is not None:
        kept, dense = mask.kept_macs(macs), mask.calls * macs.total
        facts.append(("MACs", f"{_si(kept)} of {_si(dense)} per sample ({kept / dense:.2%})"))
        facts.append(("ideal speedup", f"{dense / kept:.2f}x"))
    return "\n".join([*lines, "", *(f"{name:>{width}}  {text}" for name, text in facts)])


def draw_heatmap(
    mask: Mask,
    path: str | os.PathLike[str],
    scores: Sequence[Sequence[float]] | None = None,
    macs: Macs | None = None,
) -> None:
    """Draw a mask into a PNG, SVG or PDF file.

    ``scores`` (calls, blocks) are keep probabilities: they shade the cells, and computed cells get a dot.
    Raises MaskError when the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = min(max(0.2 * mask.calls + 3.2, 7.5), 18.0)
    height = min(max(0.28 * len(mask.blocks) + 1.7, 3.0), 18.0)
    figure = Figure(
        figsize=(width, height), dpi=150, layout="constrained"
    )  # not pyplot, which keeps global state
    FigureCanvasAgg(figure)
    grid, bars = figure.subplots(1, 2, sharey=True, width_ratios=[width - 2.2, 1.1])
    if scores is None:
        _draw_cells(grid, mask)
    else:
        _draw_scores(grid, mask, scores)
    _draw_axes(grid, mask)
    _draw_shares(bars, mask)
    figure.suptitle(_title(mask, macs), x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=INK)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: an unknown file type
        raise MaskError(
            f"cannot write the picture: {error}", where=path, mend="name a writable .png file"
        ) from error


def _draw_cells(grid: Axes, mask: Mask) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    cells = [[float(kept) for kept in column] for column in zip(*mask.keep, strict=True)]
    colours = ListedColormap([REUSED, COMPUTED])
    grid.pcolormesh(cells, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    grid.legend(
        handles=[Patch(color=COMPUTED, label="computed"), Patch(color=REUSED, label="reused")],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize=8.5,
        handlelength=1.0,
        handleheight=1.0,
        borderpad=0.2,
    )


def _draw_scores(grid: Axes, mask: Mask, scores: Sequence[Sequence[float]]) -> None:
    columns = [list(column) for column in zip(*scores, strict=True)]
    mesh = grid.pcolormesh(columns, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    kept = [(call, block) for call, row in enumerate(mask.keep) for block, keeps in enumerate(row) if keeps]
    grid.scatter(
        [call + 0.5 for call, _ in kept],
        [block + 0.5 for _, block in kept],
        s=14,
        color="white",
        edgecolors=INK,
        linewidths=0.6,
    )
    assert grid.figure is not None
    bar = grid.figure.colorbar(
        mesh, ax=grid, location="top", shrink=0.35, anchor=(1.0, 0.0), aspect=30, pad=0.02
    )
    bar.set_label("keep score (dots: computed)", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=7.5)


def _draw_axes(grid: Axes, mask: Mask) -> None:
    grid.set_yticks([index + 0.5 for index in range(len(mask.blocks))], mask.blocks, fontsize=8.5, color=INK)
    grid.set_ylim(len(mask.blocks), 0)  # execution order runs downwards
    step = max(1, round(mask.calls / 12))
    shown = range(0, mask.calls, step)
    labels = [f"{call}\n{mask.scheduler.timesteps[call]:.4g}" for call in shown]
    grid.set_xticks([call + 0.5 for call in shown], labels, fontsize=8, color=INK)
    grid.set_xlabel("denoiser call, and its timestep", fontsize=9, color=INK)
    _bare(grid)


def _draw_shares(bars: Axes, mask: Mask) -> None:
    positions = [index + 0.5 for index in range(len(mask.blocks))]
    bars.barh(positions, mask.kept_by_block, height=0.62, color=COMPUTED)
    for position, share in zip(positions, mask.kept_by_block, strict=True):
        bars.text(share + 0.04, position, f"{share:.0%}", va="center", fontsize=8, color=INK)
    bars.set_xlim(0, 1.45)
    bars.set_xticks([])
    bars.set_xlabel("share of calls", fontsize=9, color=INK)
    bars.tick_params(labelleft=False)
    _bare(bars)


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _title(mask: Mask, macs: Macs | None) -> str:
    scheduler = mask.scheduler
    name = scheduler.class_name.removesuffix("Scheduler")
    loop = f"{mask.model.source}, {name} with {scheduler.num_inference_steps} steps"
    if mask.reuse == "residual":
        loop += ", residuals reused"
    if macs is None:
        runs = sum(map(sum, mask.keep)) / (mask.calls * len(mask.blocks))
        return f"{loop}: {runs:.1%} of the blocks computed"
    return f"{loop}: {mask.macs_ratio(macs):.1%} of the MACs computed"


def _si(count: int) -> str:
    """A count with three digits and a unit prefix."""
    value, units = float(count), iter(("", " k", " M", " G", " T"))
    unit = next(units)
    while value >= 999.5 and unit != " T":
        value, unit = value / 1000, next(units)
    return f"{value:.3g}{unit}"
