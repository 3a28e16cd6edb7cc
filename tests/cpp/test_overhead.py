"""The scenario ``overhead``: both runtimes make the same image, and what is measured adds up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import overhead, table
from benchmarks.overhead import RuntimeRow
from benchmarks.scenarios import SCENARIOS, OverheadScenario
from dipgo_compile.errors import BackendError
from tests.runtime import toy

REPEATS = 3


@pytest.fixture(scope="module")
def place(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of the scenario prepares."""
    directory = tmp_path_factory.mktemp("overhead")
    (directory / overhead.BUNDLE).symlink_to(bundle)
    for name, array in toy.image().items():
        np.save(directory / f"{name}.npy", array)
    return directory


@pytest.fixture(scope="module")
def rows(built: Path, place: Path) -> tuple[RuntimeRow, RuntimeRow]:
    return (
        overhead.cpp(built / "dipgo-run", toy.plan(), place, threads=1),
        overhead.python(place, threads=1),
    )


def test_both_make_the_same_image(rows: tuple[RuntimeRow, RuntimeRow], place: Path) -> None:
    for row in rows:
        seconds, peak_bytes = overhead.one_image(row.command)
        assert seconds > 0 and peak_bytes > 1 << 20
    cpp, python = (np.load(place / f"{row.name}.out.npy") for row in rows)
    np.testing.assert_array_equal(cpp, python)


def test_figures_add_up(rows: tuple[RuntimeRow, RuntimeRow]) -> None:
    scenario = next(item for item in SCENARIOS if isinstance(item, OverheadScenario))
    measured = []
    for row in rows:
        output = overhead.output_of([*row.command, *row.repeat, str(REPEATS)])
        figures = row.read(json.loads(output)) | {"first": 0.5, "peak_rss_bytes": 5_000_000}
        merged = overhead.merged(row.name, [figures, {**figures, "first": 1.5, "peak_rss_bytes": 1}])
        whole, inside = (merged[name]["max"] for name in ("seconds_per_image", "engine_seconds_per_image"))
        least = merged["overhead_microseconds_per_instruction"]["min"]
        assert 0 < inside < whole
        assert 0 < least <= 1e6 * whole / len(toy.program().instructions)
        assert merged["first_latent_seconds"] == {"min": 0.5, "median": 1.0, "max": 1.5}
        assert merged["peak_rss_bytes"] == 5_000_000
        measured.append(merged)
    settings = {"model": "toy", "scheduler": "S", "steps": 4, "instructions": 13, "runs": 5}
    content = {"scenario": settings | {"threads": 1, "rounds": 2, "repeats": REPEATS}, "rows": measured}
    strict = replace(scenario, goals=(("c++", 0.0), ("python", 1e9)))
    _, _, _, _, cpp, python, *_ = table.overhead(strict, content)
    assert cpp.startswith("| c++ |") and "at most 0 us: **missed**" in cpp
    assert python.startswith("| python |") and "at most 1e+09 us: met" in python


def test_a_process_that_fails_is_named(rows: tuple[RuntimeRow, RuntimeRow]) -> None:
    for row in rows:
        words = [word.replace(overhead.BUNDLE, "nowhere.dipgo") for word in row.command]
        with pytest.raises(BackendError, match="failed"):
            overhead.one_image(words)
    with pytest.raises(BackendError, match="make cpp"):
        scenario = next(item for item in SCENARIOS if isinstance(item, OverheadScenario))
        overhead.run(scenario, Path("unused.json"), dipgo_run=Path("nowhere"), command="")
