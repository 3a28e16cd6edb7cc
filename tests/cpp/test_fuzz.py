"""The fuzz targets hold out for a short, repeatable run. ``runtime/fuzz/README.md`` has the long ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.corpus import corpus, make_base, write

RUNS = 1000
EVERY = 10  # a tenth of the corpus is enough to begin with


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """First inputs of each target: some of the corpus's plans and engine files."""
    directory = tmp_path_factory.mktemp("seeds")
    places = {"fuzz_plan": directory / "plans", "fuzz_onnx": directory / "engines"}
    for place in places.values():
        place.mkdir()
    base = make_base(directory)
    for number, alteration in enumerate(corpus(base)):
        group = alteration.name.partition(":")[0]
        if group == "files" or number % EVERY:
            continue
        bundle = write(alteration, base.path, directory / f"{number}.dipgo")
        name, target = ("early.onnx", "fuzz_onnx") if group == "onnx" else ("plan.json", "fuzz_plan")
        (bundle / name).rename(places[target] / f"{number:04}")
    return places


@pytest.mark.parametrize("target", ["fuzz_plan", "fuzz_onnx"])
def test_a_short_run(target: str, built: Path, seeds: dict[str, Path], tmp_path: Path) -> None:
    program = built / "fuzz" / target
    if not program.exists():
        pytest.skip("this build has no fuzz targets: configure it with -DDIPGO_FUZZ=ON")

    def run(*options: object) -> dict[str, Any]:
        command = [program, *map(str, options), seeds[target]]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-4000:]
        report: dict[str, Any] = json.loads(done.stdout)
        del report["seconds"]
        return report

    tried, first, again = run("--runs", 0), run("--runs", RUNS), run("--runs", RUNS)
    assert first == again  # the same inputs, from the same seed
    assert first["executions"] == tried["executions"] + RUNS
    assert first["kept"] > 0 and first["edges"] > tried["edges"]  # it got further than the corpus does
