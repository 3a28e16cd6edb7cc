"""``dipgo-compile inspect``: a bundle as text. Needs neither torch nor, but to measure, a backend."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dipgo_compile.measure.operators import OperatorProfile
    from dipgo_compile.measure.profile import EngineTime
    from dipgo_compile.shapes import Shape


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--program", "show_program", is_flag=True, help="The whole program and its memory instead, line by line."
)
@click.option("--shape", metavar="IMAGESxHEIGHTxWIDTH", help="Of a bundle for several: the one to show.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--measure", is_flag=True, help="Load the bundle and time every engine too, beside what its MACs predict."
)
@click.option(
    "--operators",
    is_flag=True,
    help="Load it and time the operators of an image by kind, beside the rate of a large matrix product.",
)
@click.option("--threads", type=click.IntRange(min=1), help="To measure with.  [default: the physical cores]")
def inspect(
    bundle: Path,
    show_program: bool,
    shape: str | None,
    as_json: bool,
    measure: bool,
    operators: bool,
    threads: int | None,
) -> None:
    """Show what is in BUNDLE: which calls run what, what the passes did, what it costs."""
    from dipgo_compile import report
    from dipgo_compile.bundle import open_bundle
    from dipgo_compile.text import plan_text

    if show_program and (as_json or measure or operators):
        raise click.UsageError("--program goes with none of --json, --measure and --operators")
    # Sizes and plans are checked, the weights needn't be read.
    opened = open_bundle(bundle, verify=False).shaped(shape)
    plan = opened.plan
    if show_program:
        click.echo(plan_text(plan), nl=False)
    elif as_json:
        facts = report.facts(plan, opened.shapes)
        if measure:
            facts["times"] = [asdict(item) for item in _measure(bundle, plan.shape, threads)]
        if operators:
            facts["operators"] = _operators(bundle, plan.shape, threads).to_json()
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(report.as_text(plan, opened.shapes))
        if measure:
            click.echo("\n" + report.as_times(plan, _measure(bundle, plan.shape, threads)))
        if operators:
            click.echo("\n" + _operators(bundle, plan.shape, threads).to_text())


def _measure(bundle: Path, shape: Shape, threads: int | None) -> tuple[EngineTime, ...]:
    from dipgo_compile.measure.profile import profile
    from dipgo_compile.runtime import Runtime

    with Runtime.load(bundle, threads=threads, verify=False, shape=shape) as runtime:
        return profile(runtime)


def _operators(bundle: Path, shape: Shape, threads: int | None) -> OperatorProfile:
    from dipgo_compile.measure.tracing import profile_operators

    return profile_operators(bundle, shape=shape, threads=threads)
