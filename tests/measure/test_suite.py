"""Suites of the declared benchmarks: runs that fail in part and go on later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import results
from benchmarks.__main__ import main
from benchmarks.scenarios import MEMORY_MODES, SCENARIOS, Case, Subject, SuiteScenario, Turn
from benchmarks.suite import turns
from benchmarks.suite.apart import apart
from benchmarks.suite.options import QUICK_FOOTPRINT, Options
from benchmarks.suite.remaining import Missing
from benchmarks.suite.results import SuiteResult
from benchmarks.suite.run import run
from benchmarks.suite.table import render
from dipgo_compile.errors import BackendError, InputError
from dipgo_compile.measure.operators import OperatorProfile

MASKS = Path(__file__).parents[2] / "benchmarks" / "masks"
SUITES = [scenario for scenario in SCENARIOS if isinstance(scenario, SuiteScenario)]


def scenario(pipeline: Path, *cases: Case) -> SuiteScenario:
    return SuiteScenario("small", "about", str(pipeline), 8, cases, steps=4, timed_calls=2)


def test_a_run_keeps_what_it_has_and_goes_on(pipeline: Path, tmp_path: Path) -> None:
    """One row fails for real: there is no module of that name. Its neighbours are measured all the same."""
    file, steps = tmp_path / "small.json", []
    case = Case("all-ones", "everything", "all", (Turn(("plan", "dense", "nonsense"), repeats=2),))
    small, options = scenario(pipeline, case), Options(threads=1)
    arguments: dict[str, Any] = {"command": "", "progress": lambda *told: steps.append(told)}
    content = run(small, options, file, resume=False, **arguments)
    assert results.read(file) == json.loads(json.dumps(content))
    (found,) = content["cases"]
    assert found["mask"]["calls"] == found["mask"]["calls_run"] == 4
    assert found["build_seconds"]["all"] > 0
    timed, whole, nonsense = found["turns"][0]["rows"]
    assert "no module named" in nonsense["failed"].lower()
    for row in (timed, whole):
        assert row["timed_calls"] == 2
        assert 0 < row["seconds_per_image"]["min"] <= row["seconds_per_image"]["median"]
    assert SuiteResult(content).ratio("all-ones", "plan", "dense") is not None
    assert SuiteResult(content).ratio("all-ones", "plan", "nonsense") is None
    assert any("all-ones, nonsense: " in line for line in render(SuiteResult(content)))
    assert steps[0][:2] == (0, 10)  # a build, and three rows with a warm-up and two samples each

    steps.clear()
    mended = scenario(pipeline, replace(case, turns=(replace(case.turns[0], rows=("plan", "dense")),)))
    del found["turns"][0]["rows"][2]
    results.write(file, content)
    assert run(mended, options, file, resume=True, **arguments)["cases"] == [found]
    assert not steps
    with pytest.raises(InputError, match="threads"):
        run(mended, Options(threads=2), file, resume=True, **arguments)


def test_blocks_are_timed_alone(pipeline: Path, tmp_path: Path) -> None:
    """A pattern whose calls compute less than half: what its blocks take alone is less than all of them.
    Operators are those of the case's own bundle.
    """
    case = Case("deepcache-5", "a pattern", "deepcache", (), profile=True)
    small, file = replace(scenario(pipeline, case), steps=10), tmp_path / "small.json"
    made = run(small, Options(threads=1), file, resume=False, command="")
    (found,) = made["cases"]
    profile = found["profile"]
    assert profile["blocks"] > 2
    assert 0 < profile["seconds_kept"] < profile["seconds_all"]
    assert profile["macs_per_second"] > 0
    operators = OperatorProfile.from_json(found["operators"])
    assert 0 < operators.multiplying_seconds < operators.seconds
    assert any("Operators of `deepcache-5`" in line for line in render(SuiteResult(made)))
    lacking = {key: value for key, value in found.items() if key != "operators"}
    assert Missing.of(case, lacking, QUICK_FOOTPRINT).steps == 2  # a build, and the operators
    again = run(small, Options(threads=1), file, resume=True, command="")["cases"]
    assert again == [found]


@pytest.mark.slow  # a dozen processes
def test_a_whole_run_with_all_kinds_of_figures(pipeline: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.json"
    small = scenario(
        pipeline,
        Case(
            "deepcache-5", "a pattern", "deepcache", (Turn(("plan", "dense", "deepcache")),), footprint=True
        ),
        Case("unfused", "blocks", "all", (Turn(("plan", "dense")),), fuse=False),
    )
    result = SuiteResult(run(small, Options(threads=1), file, resume=False, command=""))
    assert result.case("unfused")["engines"] > result.case("deepcache-5")["engines"]
    assert all("seconds_per_image" in row for _, _, row in result.rows())
    assert result.first_over_steady("deepcache-5") > 0
    assert result.peak("dense") > 10_000_000  # an interpreter with numpy and ONNX Runtime has more
    assert 0.5 < result.per_weights("bundle_bytes") < 20  # the plan outweighs such a model
    assert result.load_seconds() > 0


@pytest.mark.slow  # a dozen processes
@pytest.mark.parametrize("quick", [True, False])
def test_cases_may_have_models_of_their_own(
    quick: bool, pipeline: Path, other_pipeline: Path, tmp_path: Path
) -> None:
    """Inputs and dense graph are those of the case's own model."""
    subjects = {"one": pipeline, "two": other_pipeline}
    cases = tuple(
        Case(name, "", "all", (Turn(("plan", "dense"), repeats=1),), subject=Subject(str(path), 8 * size))
        for size, (name, path) in enumerate(subjects.items(), start=1)
    )
    mixed = SuiteScenario("mixed", "about", None, None, cases, steps=2, timed_calls=1)
    options = Options(threads=1, quick=quick)
    found = run(mixed, options, tmp_path / "mixed.json", resume=False, command="")["cases"]
    assert [case["model"] for case in found] == [str(path) for path in subjects.values()]
    assert all("seconds_per_image" in row for case in found for row in case["turns"][0]["rows"])
    assert found[1]["macs"]["dense"] > 3 * found[0]["macs"]["dense"]


def test_memory_modes_are_rows(pipeline: Path, tmp_path: Path) -> None:
    case = Case("all-ones", "everything", "all", (replace(MEMORY_MODES, repeats=1),))
    file = tmp_path / "small.json"
    (found,) = run(scenario(pipeline, case), Options(threads=1), file, resume=False, command="")["cases"]
    assert [row["name"] for row in found["turns"][0]["rows"]] == ["plan", "plan-low", "plan-fast"]
    assert all("seconds_per_image" in row for row in found["turns"][0]["rows"]), found


def test_a_prologue_counts_once_an_image() -> None:
    class Clock:
        """A worker whose prologue takes 5 seconds, and every call 2."""

        def image(self, calls: int | None) -> float:
            return 5.0 + 2.0 * (50 if calls is None else calls)

    for timed in (1, 3, 50):
        row = {"name": "plan", "timed_calls": timed}
        calls = turns.Calls(all=50, timed=timed, unpruned=True)
        assert turns._seconds_per_image(Clock(), row, calls) == pytest.approx(105.0)  # type: ignore[arg-type]


def test_a_case_that_cannot_be_built_is_written_down(pipeline: Path, tmp_path: Path) -> None:
    case = Case("elsewhere", "", "all", (Turn(("plan", "dense")),), backend="abacus")
    file = tmp_path / "small.json"
    content = run(scenario(pipeline, case), Options(), file, resume=False, command="")
    assert "abacus" in content["cases"][0]["failed"]
    assert any(line.startswith("- elsewhere: ") for line in render(SuiteResult(content)))


def test_a_bug_in_a_case_is_written_down_too() -> None:
    with pytest.raises(BackendError, match="ZeroDivisionError"):
        apart(divmod, 1, 0)


def test_cases_and_rows_are_chosen() -> None:
    cases = SUITES[0].cases
    chosen = Options(cases=("released",)).chosen(cases)
    assert [case.name for case in chosen if case.backend == "onnxruntime"] == [
        "released-0.80",
        "released-0.80-unfused",
        "released-0.80-split",
    ]
    (one,) = Options(rows=("torch-compile",)).chosen(cases)
    assert one.turns == (Turn(("dense", "torch-compile"), repeats=2),)
    quick = Options(quick=True).chosen(cases)
    assert len(quick) < len(cases)
    assert all(
        turn.repeats <= 2 and "torch-compile" not in turn.rows for case in quick for turn in case.turns
    )
    turns_of = (Turn(("plan", "dense"), 5, quick_repeats=4), Turn(("plan", "plan-low"), quick_repeats=0))
    (often,) = Options(quick=True).chosen((Case("often", "", "all", turns_of),))
    assert [(turn.rows, turn.repeats) for turn in often.turns] == [(("plan", "dense"), 4)]
    for options in (Options(cases=("nothing",)), Options(rows=("jax",))):
        with pytest.raises(InputError, match="available: "):
            options.chosen(cases)


@pytest.mark.parametrize("suite_scenario", SUITES, ids=lambda scenario: scenario.name)
def test_every_suite_has_a_command_and_masks(suite_scenario: SuiteScenario) -> None:
    ran = CliRunner().invoke(main, ["run", suite_scenario.name, "--help"])
    assert ran.exit_code == 0
    assert {"--quick", "--resume", "--cases", "--rows"} <= {*ran.output.split()}
    files = {case.mask for case in suite_scenario.cases} - {"all", "deepcache"}
    assert all((MASKS / Path(file).name).is_file() for file in files)
    whole = [case for case in suite_scenario.cases if not case.split_guidance]
    assert sum(case.footprint for case in whole) == 1
