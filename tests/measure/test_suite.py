"""Suites of the declared benchmarks: rows, runs that fail in part and go on later, goals, tables and
pictures.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image as PillowImage
from torch import cuda

from benchmarks import mask_rules, plots, results
from benchmarks.__main__ import main
from benchmarks.rows import deepcache, supernet_compile, torch_compile
from benchmarks.scenarios import MEMORY_MODES, SCENARIOS, Case, Subject, SuiteScenario, Turn
from benchmarks.suite import turns
from benchmarks.suite.apart import apart
from benchmarks.suite.goals import GOALS, Goal
from benchmarks.suite.options import QUICK_FOOTPRINT, Options
from benchmarks.suite.remaining import Missing
from benchmarks.suite.results import SuiteResult
from benchmarks.suite.run import run
from benchmarks.suite.table import render
from dipgo_compile import bench
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.bench import BenchOptions
from dipgo_compile.build import BuildOptions, build
from dipgo_compile.bundle import open_bundle
from dipgo_compile.errors import BackendError, InputError
from dipgo_compile.macs.counts import count_macs
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import TOLERANCES, relative_l2
from dipgo_compile.measure.operators import OperatorProfile
from dipgo_compile.measure.rows import DENSE, Job, dense, plan, prepare, supernet, torch
from dipgo_compile.models.source import load

# fp32, six calls: sums in other orders differ by 1e-6, a wrong cache by more than 1e-2.
TOLERANCE = 1e-4
MASKS = Path(__file__).parents[2] / "benchmarks" / "masks"
SUITES = [scenario for scenario in SCENARIOS if isinstance(scenario, SuiteScenario)]


@pytest.fixture(scope="module")
def job(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """DeepCache's mask over six calls, of which two are whole."""
    path = tmp_path_factory.mktemp("deepcache")
    mask = mask_rules.make("deepcache", load(str(pipeline)), steps=6)
    opened = open_bundle(build(mask, output=path / "small.dipgo").path)
    prepare.store_inputs(opened, path)
    prepare.store_dense(opened, str(pipeline), path)
    return bench._job(opened, BenchOptions(threads=1), str(path))


def test_the_deepcache_package_computes_what_the_mask_says(job: Job) -> None:
    image = deepcache.load(job)
    first = image()
    np.testing.assert_allclose(first, plan.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(image(), first, rtol=TOLERANCE, atol=TOLERANCE)  # nothing stays in its cache
    assert np.abs(first - dense.load(job)()).max() > 100 * TOLERANCE


@pytest.mark.parametrize("row", [plan, dense, torch, supernet, deepcache])
def test_an_image_can_stop_early(job: Job, row: Any) -> None:
    image = row.load(job)
    whole = image()
    assert image(calls=2) is None
    np.testing.assert_allclose(image(), whole, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow  # it compiles some hundred kernels
def test_torch_compile_gives_what_torch_gives(job: Job) -> None:
    np.testing.assert_allclose(torch_compile.load(job)(), torch.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
def test_a_compiled_supernet_gives_what_the_supernet_gives(job: Job) -> None:
    image = supernet_compile.load(job)
    np.testing.assert_allclose(image(), supernet.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(scope="module")
def half(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The same for a GPU, in float16."""
    path = tmp_path_factory.mktemp("half")
    mask = mask_rules.make("deepcache", load(str(pipeline)), steps=6)
    options = BuildOptions(provider="cuda", precision="fp16")
    opened = open_bundle(build(mask, output=path / "small.dipgo", options=options).path)
    prepare.store_inputs(opened, path)
    prepare.store_dense(opened, str(pipeline), path)
    return bench._job(opened, BenchOptions(threads=1), str(path))


def test_the_baseline_of_a_plan_in_float16_is_too(half: Job) -> None:
    graph = onnx.load(Path(half.workspace) / DENSE, load_external_data=False).graph
    outside = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert outside == {onnx.TensorProto.FLOAT}
    large = [tensor for tensor in graph.initializer if tensor.external_data]
    assert [t.name for t in large if t.data_type != onnx.TensorProto.FLOAT16 and "time" not in t.name] == []


def test_the_baseline_computes_on_a_device_as_it_does_here(half: Job, job: Job) -> None:
    """The device is this CPU. Noise and conditions are those of the plan in float32."""
    here, there = (dense.loop(half, OnnxRuntimeBackend(device=device)) for device in (None, "cpu"))
    expected = here()
    for _ in range(2):
        np.testing.assert_array_equal(there(), expected)
    assert relative_l2(expected, torch.load(job)()) < TOLERANCES["fp16"].latents


@pytest.mark.skipif(cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("row", [torch, supernet])
def test_rows_of_pytorch_follow_a_plan_to_its_gpu(half: Job, row: Any) -> None:
    with pytest.raises(BackendError, match="PyTorch finds no GPU"):
        row.load(half)


def test_masks_by_rule(pipeline: Path) -> None:
    model = load(str(pipeline), weights=False)
    whole, *others = mask_rules.make("deepcache", model, steps=6).keep
    assert all(whole) and others[4] == whole
    blocks = model.blocks("layer")
    kept = [block for block, keeps in zip(blocks, others[0], strict=True) if keeps]
    assert kept == ["up_blocks.1.resnets.1", "up_blocks.1.attentions.1"]
    assert all(all(row) for row in mask_rules.make("all", model, steps=3).keep)


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("sd15_ddim50_released_0.80.json", 0.2),
        ("sd15_ddim50_layer_0.5.json", 0.5),
        ("sd15_ddim50_layer_0.3.json", 0.3),
        ("bk-sdm-small_ddim20_layer_0.3.json", 0.3),
        ("bk-sdm-base_ddim20_layer_0.3.json", 0.3),
        ("sd21_ddim20_layer_0.3.json", 0.3),
        ("dit-xl-2_ddim20_residual_0.4.json", 0.4),
        ("pixart-alpha-512_ddim20_residual_0.4.json", 0.4),
    ],
)
def test_committed_masks_keep_what_their_names_say(file: str, kept: float) -> None:
    mask = Mask.load(MASKS / file)
    model = load(mask.model.source, weights=False)
    assert mask.model.config_sha256 == model.config_sha256
    ratio = mask.macs_ratio(count_macs(model, model.geometry(1), mask.blocks))
    assert ratio == pytest.approx(kept, abs=0.0125)  # heuristics.RATIO_TOLERANCE


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


@pytest.mark.parametrize("suite_scenario", SUITES, ids=lambda scenario: scenario.name)
def test_every_suite_has_a_command_and_masks(suite_scenario: SuiteScenario) -> None:
    ran = CliRunner().invoke(main, ["run", suite_scenario.name, "--help"])
    assert ran.exit_code == 0
    assert {"--quick", "--resume", "--cases", "--rows"} <= {*ran.output.split()}
    files = {case.mask for case in suite_scenario.cases} - {"all", "deepcache"}
    assert all((MASKS / Path(file).name).is_file() for file in files)
    whole = [case for case in suite_scenario.cases if not case.split_guidance]
    assert sum(case.footprint for case in whole) == 1
