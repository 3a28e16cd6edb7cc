"""``docs/macs.md``: the paper's MACs beside those that ``dipgo-compile macs`` counts.

    python -m scripts.macs_table

Every figure comes from the command that stands in its row, run here.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import click

from dipgo_compile.commands.macs import macs

FILE = Path(__file__).parents[1] / "docs" / "macs.md"
HEAD = """\
# MACs, held against the paper's

This file is made by `python -m scripts.macs_table`: don't edit it. Every figure is that of the command in its
row, counted on the meta device: no weights are loaded and nothing is computed.

The paper's figures are of all denoiser calls of an image. They can be met within a thousandth, though not by
one way of counting:

- For UNets it counts convolutions and linear layers, of one sample: neither the second sample that guidance
  computes nor the two products inside attention.
- For DiT-XL/2 it counts the products inside attention too (`--attention`), as DiT's own authors do.
- For PixArt-alpha it counts both samples of guidance (`--guidance`), without the products inside attention.
- DeepCache's figure is that of every fourth call whole, and between them the last two layers of the last up
  block and the first layer of the first down block (`deepcache` in `benchmarks/mask_rules.py`, branch 1).

What is left is the paper's rounding, and whatever else its counter may take in.

"""


@dataclass(frozen=True)
class Row:
    """``teramacs``: the paper's figure."""

    about: str
    teramacs: float
    arguments: str


RELEASED = "benchmarks/masks/sd15_ddim50_released_0.80.json"
DEEPCACHE = "benchmarks/masks/sd15_ddim50_deepcache_4_1.json"
ROWS = (
    Row("Stable Diffusion 1.5, 50 steps", 16.94, "random:sd15 --steps 50"),
    Row("the same, DiP-GO 0.80 (the released gates)", 3.38, f"--mask {RELEASED}"),
    Row("the same, DeepCache", 6.52, f"--mask {DEEPCACHE}"),
    Row("BK-SDM-Base, 50 steps", 11.19, "random:bk-sdm-base --steps 50"),
    Row("BK-SDM-Small, 50 steps", 10.88, "random:bk-sdm-small --steps 50"),
    Row("Stable Diffusion 2.1, 768x768, 50 steps", 38.04, "random:sd21 --steps 50"),
    Row("LCM SDXL, 1024x1024, 4 steps", 11.95, "random:lcm-sdxl --steps 4"),
    Row("DiT-XL/2, 256x256, 250 steps", 29.66, "random:dit-xl-2 --steps 250 --attention"),
    Row("PixArt-alpha, 1024x1024, 20 steps", 85.65, "random:pixart-alpha --steps 20 --guidance"),
)


def count(row: Row) -> float:
    """What the row's command counts, in 1e12 MACs."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "macs.json"
        with redirect_stdout(io.StringIO()):
            macs.main([*row.arguments.split(), "--json", str(file)], standalone_mode=False)
        found: int = json.loads(file.read_text())["kept"]
    return found / 1e12


def render(counted: Sequence[float]) -> str:
    """The file, from the 1e12 MACs of every row."""
    return HEAD + "\n".join(_table(counted)) + "\n"


def _table(counted: Sequence[float]) -> Iterator[str]:
    yield "| what | paper | counted | off by | `dipgo-compile macs` ... |"
    yield "|---|---|---|---|---|"
    for row, found in zip(ROWS, counted, strict=True):
        off = found / row.teramacs - 1
        yield f"| {row.about} | {row.teramacs:.2f} T | {found:.3f} T | {off:+.2%} | `{row.arguments}` |"


if __name__ == "__main__":
    FILE.write_text(render([count(row) for row in ROWS]), encoding="utf-8")
    click.echo(FILE)
