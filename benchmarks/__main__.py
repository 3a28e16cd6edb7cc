"""``python -m benchmarks list``, ``run NAME``, ``table``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from benchmarks import results, table
from benchmarks.scenarios import (
    SCENARIOS,
    OverheadScenario,
    QualityScenario,
    SpeedScenario,
    SuiteScenario,
)
from benchmarks.suite import table as suite_table
from benchmarks.suite.results import SuiteResult
from dipgo_compile.commands.progress import counter
from dipgo_compile.errors import DipgoError

QUICK_IMAGES = 100


class Group(click.Group):
    """Shows expected errors as messages."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except DipgoError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Group)
def main() -> None:
    """Declared benchmarks. Run them from the root of the repository."""


@main.command("list")
def list_() -> None:
    """The scenarios, and which have results."""
    for scenario in SCENARIOS:
        state = "measured" if results.path_of(scenario.name).exists() else "not measured"
        click.echo(f"{scenario.name:<12}{state:<14}{scenario.about}")


@main.command("table")
def table_() -> None:
    """Write README.md and its pictures from the results."""
    table.README.write_text(table.render(), encoding="utf-8")
    click.echo(table.README)


@main.group()
def run() -> None:
    """Measure a scenario and write its JSON file."""


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


def _add_speed(scenario: SpeedScenario) -> None:
    @run.command(scenario.name, short_help=scenario.about)
    @click.option("--repeats", type=click.IntRange(min=1), default=scenario.repeats, show_default=True)
    @click.option("--threads", type=click.IntRange(min=1), help="[default: the physical cores]")
    @click.option("-o", "--output", type=click.Path(path_type=Path), default=results.path_of(scenario.name))
    def command(repeats: int, threads: int | None, output: Path) -> None:
        from benchmarks import speed

        with counter("images") as progress:
            content = speed.run(
                scenario, output, repeats=repeats, threads=threads, command=_command(), progress=progress
            )
        click.echo("\n".join(table.speed(content)))


def _add_quality(scenario: QualityScenario) -> None:
    @run.command(scenario.name, short_help=scenario.about)
    @click.option(
        "--images", type=int, default=scenario.images, show_default=True, help="Per row; a multiple of 10."
    )
    @click.option("--quick", is_flag=True, help=f"{QUICK_IMAGES} images: too few for a FID to mean much.")
    @click.option("--rows", help="Names or their beginnings, separated by commas.  [default: all]")
    @click.option("--seed", default=0, show_default=True, help="Of the noise.")
    @click.option(
        "--guidance-scale",
        type=float,
        default=scenario.guidance_scale,
        show_default=scenario.guidance_scale is not None or "the trained mask's",
    )
    @click.option("--resume", is_flag=True, help="Keep the rows that the output has, and make the others.")
    @click.option("-o", "--output", type=click.Path(path_type=Path), default=results.path_of(scenario.name))
    def command(
        images: int,
        quick: bool,
        rows: str | None,
        seed: int,
        guidance_scale: float | None,
        resume: bool,
        output: Path,
    ) -> None:
        from benchmarks import quality
        from dipgo_compile.generate import trained_guidance_scale
        from dipgo_compile.mask import Mask

        if guidance_scale is None:
            guidance_scale = trained_guidance_scale(Mask.load(scenario.mask))
        options = quality.Options(
            images=QUICK_IMAGES if quick else images,
            seed=seed,
            guidance_scale=guidance_scale,
            rows=None if rows is None else tuple(rows.split(",")),
        )
        with counter("batches") as progress:
            content = quality.run(
                scenario, options, output, resume=resume, command=_command(), progress=progress
            )
        click.echo("\n".join(table.quality(content)))


def _add_suite(scenario: SuiteScenario) -> None:
    @run.command(scenario.name, short_help=scenario.about)
    @click.option("--quick", is_flag=True, help="Fewer cases, rows and repeats.")
    @click.option("--cases", help="Names or their beginnings, separated by commas.  [default: all]")
    @click.option("--rows", help="Only what these rows take part in, separated by commas.  [default: all]")
    @click.option("--threads", type=click.IntRange(min=1), help="[default: the physical cores]")
    @click.option("--resume", is_flag=True, help="Keep what the output has, and measure the rest.")
    @click.option("-o", "--output", type=click.Path(path_type=Path), default=results.path_of(scenario.name))
    def command(
        quick: bool, cases: str | None, rows: str | None, threads: int | None, resume: bool, output: Path
    ) -> None:
        """Measure cases and peers, each row in a process of its own. Bundles and graphs of some 10 GB go
        to the temporary directory (TMPDIR), which should be on a disk; 24 GiB of memory suffice.
        """
        from benchmarks.suite import run as suite
        from benchmarks.suite.options import Options

        options = Options(
            threads=threads,
            quick=quick,
            cases=None if cases is None else tuple(cases.split(",")),
            rows=None if rows is None else tuple(rows.split(",")),
        )
        with counter("steps") as progress:
            content = suite.run(
                scenario, options, output, resume=resume, command=_command(), progress=progress
            )
        click.echo("\n".join(suite_table.render(SuiteResult(content))))


def _add_overhead(scenario: OverheadScenario) -> None:
    @run.command(scenario.name, short_help=scenario.about)
    @click.option("--repeats", type=click.IntRange(min=1), default=scenario.repeats, show_default=True)
    @click.option(
        "--dipgo-run", type=click.Path(path_type=Path), help="The C++ program.  [default: make cpp's]"
    )
    @click.option("-o", "--output", type=click.Path(path_type=Path), default=results.path_of(scenario.name))
    def command(repeats: int, dipgo_run: Path | None, output: Path) -> None:
        from benchmarks import overhead

        with counter("rounds") as progress:
            content = overhead.run(
                scenario,
                output,
                dipgo_run=dipgo_run or overhead.DIPGO_RUN,
                repeats=repeats,
                command=_command(),
                progress=progress,
            )
        click.echo("\n".join(table.overhead(scenario, content)))


for _scenario in SCENARIOS:
    if isinstance(_scenario, SpeedScenario):
        _add_speed(_scenario)
    elif isinstance(_scenario, SuiteScenario):
        _add_suite(_scenario)
    elif isinstance(_scenario, OverheadScenario):
        _add_overhead(_scenario)
    else:
        _add_quality(_scenario)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
