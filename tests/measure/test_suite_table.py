"""What a suite's result says: goals, tables and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from benchmarks import plots
from benchmarks.suite.goals import GOALS, Goal
from benchmarks.suite.results import SuiteResult
from benchmarks.suite.table import render


def timed(name: str, median: float, calls: int = 50, first: float | None = None) -> dict[str, Any]:
    spread = {"min": median / 2, "median": median, "max": 2 * median}
    return {
        "name": name,
        "timed_calls": calls,
        "load_seconds": 1.0,
        "first_seconds": first,
        "seconds_per_image": spread,
    }


def content(plan_seconds: float = 20.0) -> dict[str, Any]:
    """A result with one case, as ``run`` writes it."""
    case = {
        "name": "released-0.80", "about": "a mask", "backend": "onnxruntime", "precision": "fp32",
        "fused": True, "mask": {"calls": 50, "calls_run": 10}, "macs": {"dense": 500, "kept": 100},
        "engines": 2, "build_seconds": {"all": 60.0},
        "turns": [{"repeats": 2, "rows": [
            timed("plan", plan_seconds, first=30.0),
            timed("dense", 100.0, calls=3),
            {"name": "supernet", "timed_calls": 50, "failed": "out of memory\nsomewhere"},
        ]}],
        "footprint": {
            "load_seconds": {"min": 1.0, "median": 2.5, "max": 3.0},
            "bundle_bytes": 1040, "cache_bytes": 0, "weight_bytes": 1000,
            "peaks": [
                {"row": "plan", "memory": "low", "calls": 3, "peak_pss_bytes": 3_000_000_000},
                {"row": "plan", "memory": "fast", "calls": 3, "failed": "no"},
                {"row": "dense", "memory": None, "calls": 3, "peak_pss_bytes": 6_000_000_000},
            ],
        },
    }  # fmt: skip
    settings = {"model": "m", "pixels": 512, "steps": 50, "threads": 2}
    return {"scenario": settings, "cases": [case]}


def goal(about: str) -> Goal:
    return next(goal for goal in GOALS if goal.about.startswith(about))


def test_goals_are_met_missed_or_not_measured() -> None:
    result = SuiteResult(content())
    assert result.speedup("released-0.80") == 5.0
    assert result.efficiency("released-0.80") == 1.0
    assert goal("released mask: efficiency").met(result) is False
    assert goal("released mask: efficiency").met(SuiteResult(content(plan_seconds=16.0))) is True
    assert goal("released mask: images a second").met(result) is None
    assert goal("released mask: a process's first image").met(result) is False
    assert goal("peak memory, over the whole graph's (memory: low)").met(result) is True
    assert goal("peak memory, over the whole graph's (memory: balanced)").met(result) is None
    assert goal("bundle").met(result) is True
    assert goal("load").met(result) is False
    assert goal("half of the layers").met(result) is None


def test_the_section_has_goals_times_and_failures() -> None:
    lines = list(render(SuiteResult(content()), (Path("plots") / "sd15-512-speedup.png",)))
    assert "| released mask: efficiency | at least 1.05 | 1.00 | **missed** |" in lines
    assert "| half of the layers: efficiency | at least 1 |  | not measured |" in lines
    assert "| build, the slowest | at most 120 s | 60.0 s | met |" in lines
    assert "| released-0.80 | plan | 20.00 | 10.00 .. 40.00 | 2 x image | 5.00x | 5.00x | 1.00 |" in lines
    assert any("| 2 x 3 of 50 calls | 1.00x |" in line for line in lines)
    assert "| plan | low | 3.00 GB | 0.50 |" in lines
    assert "- released-0.80, supernet: out of memory" in lines
    assert "- memory of plan, fast: no" in lines
    assert "![speedup](plots/sd15-512-speedup.png)" in lines


def test_missed_goals_stand_beside_what_the_machine_allows() -> None:
    """Weights of 2 of the graph's 6 GB cannot be left out, and blocks that take 40 s alone won't take 20."""
    made = content()
    (case,) = made["cases"]
    case["name"] = "layer-0.5"
    case["profile"] = {"blocks": 3, "seconds_kept": 40.0, "seconds_all": 100.0, "macs_per_second": 1e9}
    result = SuiteResult(made)
    assert result.efficiency_by_blocks("layer-0.5") == 0.5
    assert goal("half of the layers").met(SuiteResult(made)) is True
    case["turns"][0]["rows"][0] = timed("plan", 30.0, first=30.0)
    lines = list(render(SuiteResult(made)))
    assert any(
        line.startswith("| half of the layers: efficiency | 0.67 | 0.50 | every kept block") for line in lines
    )
    del case["profile"]
    assert not any("every kept block" in line for line in render(SuiteResult(made)))


def test_goals_are_not_about_split_guidance() -> None:
    """Its memory is shown beside that of whole batches, whichever was measured first."""
    (whole,) = content()["cases"]
    (split,) = json.loads(json.dumps([whole]))
    split |= {"name": "released-0.80-split", "split_guidance": True}
    split["footprint"]["peaks"][0]["peak_pss_bytes"] = 9_000_000_000
    result = SuiteResult({**content(), "cases": [split, whole]})
    assert result.peak_ratio("low") == 0.5
    assert {"| plan | low | 3.00 GB | 0.50 |", "| plan | low | 9.00 GB | 1.50 |"} <= {*render(result)}


def family(name: str, mask: str) -> dict[str, Any]:
    """A case of a suite whose cases have models of their own."""
    (case,) = content()["cases"]
    del case["footprint"]
    return {**case, "name": f"{name}-{mask}", "model": f"random:{name}", "pixels": 256}


def test_a_suite_of_architectures_has_goals_of_its_own(tmp_path: Path) -> None:
    cases = [family("dit-xl-2", "all-ones"), family("dit-xl-2", "residual-0.4")]
    cases[0]["turns"][0]["rows"][0] = timed("plan", 99.0, first=99.0)
    settings = {**content()["scenario"], "model": None, "pixels": None}
    result = SuiteResult({"scenario": settings, "cases": cases})
    lines = list(render(result))
    assert lines[0].startswith("`random:dit-xl-2` at 256x256, 50 DDIM steps")
    assert (
        "| dit-xl-2-all-ones: seconds of a call, over the whole graph's | at most 1 | 0.99 | met |" in lines
    )
    assert "| dit-xl-2-residual-0.4: efficiency | at least 1 | 1.00 | met |" in lines
    assert any("pixart-alpha-512-residual-0.4: efficiency" in line for line in lines)
    assert not any("released mask" in line for line in lines)
    assert len(plots.draw("families", result, tmp_path)) == 3


def test_unsteady_rows_are_named() -> None:
    made = content()
    lines = "\n".join(render(SuiteResult(made)))
    assert "Unsteady: `released-0.80` plan, `released-0.80` dense. Samples" in lines
    for row in made["cases"][0]["turns"][0]["rows"][:2]:
        seconds = row["seconds_per_image"]
        seconds |= {"min": 0.96 * seconds["median"], "max": 1.04 * seconds["median"]}
    assert "Unsteady" not in "\n".join(render(SuiteResult(made)))


def test_a_drift_between_cases_is_named() -> None:
    """The whole graph is the same in all of them, but not in another precision."""
    made = content()
    (case,) = made["cases"]
    later, other = json.loads(json.dumps([case, {**case, "precision": "bf16"}]))
    later["turns"][0]["rows"][1] = timed("dense", 109.0)
    other["turns"][0]["rows"][1] = timed("dense", 20.0)
    made["cases"] += [later, other]
    assert "Drift" not in "\n".join(render(SuiteResult(made)))
    later["turns"][0]["rows"][1] = timed("dense", 120.0)
    lines = "\n".join(render(SuiteResult(made)))
    assert "Drift: `dense` in onnxruntime fp32 is one program in all its cases, and took" in lines
    assert "from 100.00 to 120.00 s an image" in lines


def test_disturbed_turns_are_counted() -> None:
    made = content()
    assert "Disturbed" not in "\n".join(render(SuiteResult(made)))  # nor in results that don't know
    made["cases"][0]["turns"] += [
        {**made["cases"][0]["turns"][0], "stolen": share} for share in (0.005, 0.08)
    ]
    assert "Disturbed: in 1 of 3 turns" in "\n".join(render(SuiteResult(made)))


def test_rounding_hides_no_miss() -> None:
    """An efficiency of 1.0482 is shown as 1.0482, not as the 1.05 that was asked for."""
    result = SuiteResult(content(plan_seconds=20 / 1.0482))
    assert "| released mask: efficiency | at least 1.05 | 1.0482 | **missed** |" in list(render(result))


@pytest.mark.parametrize("empty", [False, True])
def test_pictures(tmp_path: Path, empty: bool) -> None:
    made = {**content(), "cases": []} if empty else content()
    files = plots.draw("sd15-512", SuiteResult(made), tmp_path)
    assert [file.name for file in files] == [
        "sd15-512-speedup.png",
        "sd15-512-seconds.png",
        "sd15-512-memory.png",
    ]
    for file in files:
        with PillowImage.open(file) as picture:
            colours = picture.convert("RGB").getcolors(1 << 16)
        drawn = {colour for _, colour in colours or ()}
        assert (tuple(bytes.fromhex(plots.PLAN[1:])) in drawn) is not empty
