"""``dipgo-compile inspect``: a bundle as text. Needs neither torch nor an execution provider."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--program", "show_program", is_flag=True, help="The whole program and its memory instead, line by line."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def inspect(bundle: Path, show_program: bool, as_json: bool) -> None:
    """Show what is in BUNDLE: which calls run what, what the passes did, what it costs."""
    from dipgo_compile import report
    from dipgo_compile.bundle import open_bundle
    from dipgo_compile.text import plan_text

    if show_program and as_json:
        raise click.UsageError("--program and --json exclude each other")
    plan = open_bundle(
        bundle, verify=False
    ).plan  # sizes and the plan are checked, the weights needn't be read
    if show_program:
        click.echo(plan_text(plan), nl=False)
    elif as_json:
        click.echo(json.dumps(report.facts(plan), indent=2))
    else:
        click.echo(report.as_text(plan))
