"""The whole of dipgo-compile on a small model: train, compile, verify, time, draw. `make demo` calls it.

Every step is a command that you could type yourself, and is printed before it runs.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from scripts.picture import Row, draw_rows

MODEL = "models/tiny-sd"
PROMPTS = "models/prompts/fashion.txt"
RATIO, STEPS, GUIDANCE_SCALE = 0.8, 50, 3.0
THINGS = ("a t-shirt", "a pair of trousers", "a pullover", "a dress", "a coat",
          "a sandal", "a shirt", "a sneaker", "a bag", "an ankle boot")  # fmt: skip
SEEDS = (1, 2)
RESULTS = {
    "grid.png": "images of both models, from the same noise",
    "heatmap.png": "which blocks are computed when",
    "mask.json": "the mask",
    "mask.dipgo": "the bundle",
    "bench.json": "the measurement",
}
SECTIONS = 7
BAR_WIDTH = 28

console = Console(highlight=False)


@dataclass
class Demo:
    """Runs the commands one after another, and remembers how long each took."""

    seconds: dict[str, float] = field(default_factory=dict)

    def section(self, title: str) -> None:
        """A heading, with a bar of how far the demo is."""
        self.seconds[title] = 0.0
        done = len(self.seconds) - 1
        filled = BAR_WIDTH * done // SECTIONS
        bar = f"[green]{'━' * filled}[/][dim]{'━' * (BAR_WIDTH - filled)}[/]"
        console.print(f"\n{bar}  [bold]{done + 1}/{SECTIONS}  {title}[/]")

    def run(self, command: str, *arguments: object, threads: int | None = None) -> None:
        """Print a command, run it, and end the demo with its exit code if it fails."""
        words = [str(argument) for argument in arguments]
        console.print(f"[cyan]$ dipgo-compile {shlex.join([command, *words])}[/]", soft_wrap=True)
        environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "dipgo_compile.cli", command, *words], env=environment, check=False
        )
        self.seconds[next(reversed(self.seconds))] += time.perf_counter() - started
        if done.returncode:
            console.print(f"[red]the demo stopped: this command left with exit code {done.returncode}[/]")
            sys.exit(done.returncode)


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option("--train-steps", default=60, show_default=True, help="The paper trains 1,000.")
def main(output: Path, train_steps: int) -> None:
    """Train a mask for models/tiny-sd, compile it, check it, time it and draw with it. CPU only, minutes."""
    output.mkdir(parents=True, exist_ok=True)
    mask, bundle = output / "mask.json", output / "mask.dipgo"
    dense_mask, dense = output / "dense.json", output / "dense.dipgo"
    demo = Demo()

    demo.section("Learn which blocks to compute, and when")
    demo.run(
        "train", MODEL, "--prompts", PROMPTS, "--scheduler", "ddim", "--steps", STEPS, "--ratio", RATIO,
        "--guidance-scale", GUIDANCE_SCALE, "--train-steps", train_steps, "--samples", train_steps // 4,
        "--no-gradient-checkpointing", "-o", mask,
        threads=1,  # the model is so small that a second thread costs more than it brings
    )  # fmt: skip
    demo.run("mask", "show", mask, "--png", output / "heatmap.png")

    demo.section("Compile the mask, and the unpruned model")
    demo.run("build", "--mask", mask, "-o", bundle)
    demo.run("mask", "make", "all", MODEL, "--scheduler", "ddim", "--steps", STEPS, "-o", dense_mask)
    demo.run("build", "--mask", dense_mask, "-o", dense)

    demo.section("Compare every call with PyTorch")
    demo.run("verify", bundle, "--prompt", f"a photo of {THINGS[0]}", "--guidance-scale", GUIDANCE_SCALE)

    demo.section("Time it")
    demo.run("bench", bundle, "--vs", "dense,torch", "--json", output / "bench.json")

    demo.section("Draw")
    drawn = {name: draw(demo, path, output / "images" / name) for name, path in
             (("unpruned", dense), ("pruned", bundle))}  # fmt: skip

    demo.section("Look inside the bundle")
    demo.run("inspect", bundle)

    demo.section("Summary")
    measured = json.loads((output / "bench.json").read_text())
    picture(measured, drawn, output / "grid.png")
    console.print(summary(measured))
    for name, about in RESULTS.items():
        console.print(f"{output / name!s:<20}  {about}")
    console.print(f"[dim]The commands took {sum(demo.seconds.values()):.0f} s.[/]")


def draw(demo: Demo, bundle: Path, folder: Path) -> list[Path]:
    """An image of every thing for every seed, by seed, then by thing."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [word for thing in THINGS for word in ("--prompt", f"a photo of {thing}")]
    demo.run(
        "generate", bundle, *prompts, "--seed", SEEDS[0], "--count", len(SEEDS),
        "--guidance-scale", GUIDANCE_SCALE, "-o", folder / "image.png", "--json", folder / "images.json",
    )  # fmt: skip
    images = json.loads((folder / "images.json").read_text())["images"]
    return [Path(image["file"]) for image in sorted(images, key=lambda image: image["seed"])]


def picture(measured: dict[str, Any], drawn: dict[str, list[Path]], output: Path) -> None:
    """Pairs of rows: for every seed the unpruned model's images above the pruned one's."""
    seconds = {"unpruned": median(measured, "dense"), "pruned": median(measured, "plan")}
    rows = []
    for index, seed in enumerate(SEEDS):
        part = slice(index * len(THINGS), (index + 1) * len(THINGS))
        rows += [
            Row(f"{name}\n{1000 * seconds[name]:.0f} ms\nseed {seed}", images[part])
            for name, images in drawn.items()
        ]
    title = f"The same noise, denoised {measured['speedup']:.1f} times faster"
    draw_rows(rows, THINGS, title, output)


def summary(measured: dict[str, Any]) -> Table:
    """What was measured."""
    table = Table(title="tiny-sd, 50 DDIM steps with guidance", title_justify="left")
    for heading in ("", "s/image", "the plan is faster by", "peak memory"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for row in measured["rows"]:
        table.add_row(
            row["name"],
            f"{row['seconds_per_image']['median']:.3f}",
            f"{row['seconds_per_image']['median'] / median(measured, 'plan'):.2f}x",
            f"{row['peak_pss_bytes'] / 1e6:.0f} MB",
        )
    table.add_section()
    table.add_row("ideal, by MACs", "", f"{measured['ideal_speedup']:.2f}x", "")
    table.add_row("efficiency", "", f"{measured['efficiency']:.2f}", "")
    return table


def median(measured: dict[str, Any], name: str) -> float:
    """Median seconds an image of one row of a bench JSON."""
    return next(float(row["seconds_per_image"]["median"]) for row in measured["rows"] if row["name"] == name)


if __name__ == "__main__":
    main()
