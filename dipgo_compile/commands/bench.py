"""``dipgo-compile bench``: how much faster is a bundle, and how close to what its MACs promise?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dipgo_compile.commands.bundle_options import (
    guidance_scale_option,
    memory_option,
    model_option,
    shape_option,
    threads_option,
)
from dipgo_compile.commands.progress import counter
from dipgo_compile.commands.result import Result, json_option

if TYPE_CHECKING:
    from dipgo_compile.bench import BenchResult


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option(
    "--vs",
    metavar="ROWS",
    help="What to compare with, separated by commas. dense: the unpruned model as one ONNX graph. torch: "
    "the unpruned model in eager PyTorch. supernet: the mask in eager PyTorch.  "
    "[default: dense,torch; dense for an ONNX file]",
)
@click.option(
    "--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Timed images of each row."
)
@click.option(
    "--warmup", type=click.IntRange(min=0), default=2, show_default=True, help="Images before them."
)
@threads_option("Threads of every row.")
@memory_option("How the plan trades memory for speed: see Runtime.load.")
@guidance_scale_option
@model_option
@shape_option("time.  [default: the largest]")
@json_option("the result")
def bench(bundle: Path | None, vs: str | None, model: str | None, result: Result, **options: Any) -> None:
    """Time BUNDLE (or the only one here) against the unpruned model, in turns, each in a process of its
    own. If any row takes less than a second, an image that isn't timed goes before each, for the caches.
    """
    import sys

    from dipgo_compile.bench import BenchOptions, find_bundle
    from dipgo_compile.bench import bench as measure

    versus = None if vs is None else tuple(row.strip() for row in vs.split(",") if row.strip())
    chosen = BenchOptions(versus=versus, source=model, **options)
    command = ("dipgo-compile", *sys.argv[1:])
    with counter("images") as progress:
        found = measure(bundle or find_bundle(Path.cwd()), chosen, command=command, progress=progress)
    result.report(found.to_json(), as_text(found))


def as_text(found: BenchResult) -> str:
    """A line a row, then what the plan gained and what it could have gained at most."""
    from dipgo_compile.measure.machine import DISTURBED

    scenario, plan = found.scenario, found.row("plan")
    assert plan is not None
    mask = scenario["mask"]
    lines = [
        f"{scenario['bundle']}: {scenario['model']}, {scenario['scheduler']} {scenario['steps']} steps, "
        f"{mask['calls_run']} of {mask['calls']} calls run; {scenario['backend']} on {scenario['provider']}, "
        f"{scenario['precision']}, {scenario['threads']} threads, {scenario['repeats']} repeats",
        "row         s/image (min .. max)             peak memory     load   plan is faster by",
    ]
    for row in found.rows:
        spread = f"{row.median:.4f} ({min(row.seconds):.4f} .. {max(row.seconds):.4f})"
        memory = f"{row.peak_pss_bytes / 1e6:,.0f} MB"
        lines.append(
            f"{row.name:<10}  {spread:<30}  {memory:>12}  {row.load_seconds:>5.2f} s  "
            f"{row.median / plan.median:>6.2f}x"
        )
    lines.append(f"ideal speedup, by multiply-accumulates: {found.ideal_speedup:.2f}x")
    if found.speedup is not None and found.efficiency is not None:
        lines.append(f"speedup over dense: {found.speedup:.2f}x, efficiency {found.efficiency:.2f}")
    if found.stolen is not None and found.stolen > DISTURBED:
        lines.append(
            f"Beware: other virtual machines took {found.stolen:.0%} of the processors' time meanwhile. "
            "Measure again on a machine of your own, or at a quieter time."
        )
    return "\n".join(lines)
