"""The demo's own work; its commands have tests of their own."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from dipgo_compile.errors import MaskError
from scripts.demo import Demo, median, summary
from scripts.picture import Row, draw_rows

MEASURED = {
    "rows": [
        {"name": "plan", "seconds_per_image": {"median": 0.1}, "peak_pss_bytes": 2e8},
        {"name": "dense", "seconds_per_image": {"median": 0.45}, "peak_pss_bytes": 3e8},
    ],
    "speedup": 4.5,
    "ideal_speedup": 5.0,
    "efficiency": 0.9,
}


def test_summary_compares_with_the_plan() -> None:
    printed = io.StringIO()
    Console(width=100, file=printed).print(summary(MEASURED))
    text = printed.getvalue()
    assert "4.50x" in text
    assert "5.00x" in text
    assert "300 MB" in text
    assert median(MEASURED, "dense") == 0.45


def test_picture_has_every_image(tmp_path: Path) -> None:
    shades = {name: tmp_path / f"{name}.png" for name in ("red", "lime", "blue", "yellow")}
    for name, path in shades.items():
        Image.new("RGB", (8, 8), name).save(path)
    paths = list(shades.values())
    output = tmp_path / "grid.png"
    draw_rows([Row("above", paths[:2]), Row("below", paths[2:])], ["left", "right"], "title", output)
    with Image.open(output) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 20)}
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)} <= colours


def test_a_failing_command_ends_the_demo_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    demo = Demo()
    demo.section("Compile")
    with pytest.raises(SystemExit) as stopped:
        demo.run("build", "--mask", "nope.json")
    assert stopped.value.code == MaskError.exit_code
    printed = capfd.readouterr()
    assert "$ dipgo-compile build --mask nope.json" in printed.out
    assert "error: cannot read the mask" in printed.err
