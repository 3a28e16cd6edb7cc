"""``dipgo-compile mask``: import, make and show masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipgo_compile.commands.mask_make import make, report, schedule_options

if TYPE_CHECKING:
    from dipgo_compile.macs.counts import Macs
    from dipgo_compile.mask import Mask


@click.group()
def mask() -> None:
    """Import, make and show masks.

    A mask says which blocks of a denoiser are computed at which call. `train` learns one; these commands
    work without training.

    \b
    dipgo-compile mask make skip-calls models/tiny-sd --every 5 -o every5.json
    dipgo-compile mask import sd15_gates_0.8.pkl --model random:sd15 --scheduler ddim -o sd15.json
    dipgo-compile mask show sd15.json --png sd15.png
    """


mask.add_command(make)


@mask.command("import", short_help="Turn a released gate file into a mask.")
@click.argument("gates", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="What the gates prune: a directory, a hub id or random:NAME.")
@schedule_options
def import_(gates: Path, model: str, scheduler: str | None, steps: int, output: Path) -> None:
    """Turn a gate file of DiP-GO's authors (GATES, a pickle) into a mask.

    The schedule must be the one that the gates were made for. A pickle can run code, so nothing but tensors
    and plain containers is read from it.

    \b
    dipgo-compile mask import sd15_gates_0.8.pkl --model random:sd15 --scheduler ddim --steps 50 -o mask.json
    """
    from dipgo_compile.masks.gates import import_gates
    from dipgo_compile.models.source import load
    from dipgo_compile.schedules.schedulers import scheduler_ref

    loaded = load(model, weights=False)
    imported = import_gates(gates, loaded, scheduler_ref(scheduler, loaded, steps))
    imported.save(output)
    report(imported, loaded, output)


@mask.command()
@click.argument("file", metavar="MASK", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print statistics as JSON instead of the grid.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw a picture, too (PNG, SVG, PDF by suffix).")
@click.option("--scores", is_flag=True, help="Shade the picture by the keep scores that training recorded.")
def show(file: Path, as_json: bool, png: Path | None, scores: bool) -> None:
    """Show MASK as a grid, with what it saves.

    \b
    dipgo-compile mask show mask.json
    dipgo-compile mask show mask.json --png mask.png
    dipgo-compile mask show mask.json --json
    """
    from dipgo_compile.mask import Mask
    from dipgo_compile.masks.heatmap import draw_heatmap, grid_text

    shown = Mask.load(file)
    macs = _macs(shown)
    click.echo(json.dumps(_statistics(shown, macs), indent=2) if as_json else grid_text(shown, macs))
    if png is not None:
        draw_heatmap(shown, png, shown.provenance.get("scores") if scores else None, macs)


def _macs(mask: Mask) -> Macs | None:
    """MACs of the mask's model; None, with a note, when it can't be had: that's no reason to show nothing."""
    from dipgo_compile.errors import DipgoError
    from dipgo_compile.models.opening import open_masked

    try:
        model = open_masked(mask, weights=False)
        mask.check_against(model, model.scopes)
    except DipgoError as error:
        click.echo(f"note: MACs are unknown, because {error.what}", err=True)
        return None
    return model.macs(model.geometry(), mask.blocks, mask.reuse)


def _statistics(mask: Mask, macs: Macs | None) -> dict[str, object]:
    statistics: dict[str, object] = {
        "model": mask.model.source,
        "scheduler": mask.scheduler.class_name,
        "reuse": mask.reuse,
        "calls": mask.calls,
        "idle_calls": list(mask.idle_calls),
        "patterns": list(mask.patterns),
        "kept_by_block": dict(zip(mask.blocks, mask.kept_by_block, strict=True)),
        "kept_by_call": list(mask.kept_by_call),
        "kept_by_third": list(mask.kept_by_third),
    }
    if macs is not None:
        statistics["macs"] = {"kept": mask.kept_macs(macs), "dense": mask.calls * macs.total}
        statistics["ideal_speedup"] = 1 / mask.macs_ratio(macs)
    return statistics
