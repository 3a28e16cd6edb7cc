"""Command line options that the recipes share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from models.recipes import fashion_mnist

data = click.option(
    "--data", "data_dir", type=click.Path(path_type=Path), default=fashion_mnist.DEFAULT_DATA_DIR,
    show_default=True, help="Folder with the four Fashion-MNIST idx.gz files.",
)  # fmt: skip
limit = click.option("--limit", type=int, help="Use only the first LIMIT training images: for smoke tests.")
seed = click.option("--seed", default=0, show_default=True)
resume = click.option("--resume", is_flag=True, help="Go on from the checkpoint in WORK.")


def work(directory: str) -> Callable[[Callable[..., Any]], Any]:
    """Where checkpoints and logs go."""
    return click.option(
        "--work", type=click.Path(path_type=Path), default=Path(directory), show_default=True,
        help="Folder for checkpoints and logs.",
    )  # fmt: skip


def output(directory: Path) -> Callable[[Callable[..., Any]], Any]:
    """Where the model goes."""
    return click.option(
        "-o", "--output", type=click.Path(path_type=Path), default=directory, show_default=True
    )


def evaluation(directory: Path, guidance: float) -> Callable[[Callable[..., Any]], Any]:
    """What `evaluate` draws and judges: `data_dir`, `count`, `steps`, `guidance`, `seed` and `model`."""
    options = (
        data,
        click.option("--images", "count", default=2000, show_default=True, help="How many images to judge."),
        click.option("--steps", default=50, show_default=True, help="DDIM steps per image."),
        click.option("--guidance", default=guidance, show_default=True, help="Guidance scale."),
        seed,
        click.option("--model", type=click.Path(path_type=Path), default=directory, show_default=True),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
