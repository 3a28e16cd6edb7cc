from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dipgo_trainer.chain import reference_chain
from torch import from_numpy

from dipgo_compile import bench
from dipgo_compile.bench import BenchOptions, BenchResult, Row
from dipgo_compile.bundle import MASK, open_bundle
from dipgo_compile.commands.bench import as_text
from dipgo_compile.commands.bench import bench as command
from dipgo_compile.errors import BackendError, InputError
from dipgo_compile.mask import Mask
from dipgo_compile.measure.rows import SHAPES, Job, dense, plan, prepare, supernet, torch
from dipgo_compile.measure.worker import Worker
from dipgo_compile.models.source import load as load_model

# fp32, five calls: sums in other orders differ by 1e-6, a wrong schedule or guidance by more than 1e-2.
TOLERANCE = 1e-4


def prepared(bundle: Path, path: Path) -> Job:
    opened = open_bundle(bundle)
    job = bench._job(opened, BenchOptions(threads=1), str(path))
    prepare.store_inputs(opened, path)
    prepare.store_dense(opened, job.source, path)
    return job


@pytest.fixture(scope="module")
def job(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return prepared(bundle, tmp_path_factory.mktemp("workspace"))


def test_rows_that_stand_for_the_same_agree(job: Job) -> None:
    unpruned, pruned = dense.load(job)(), plan.load(job)()
    np.testing.assert_allclose(unpruned, torch.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(pruned, supernet.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)
    assert np.abs(unpruned - pruned).max() > 100 * TOLERANCE


class Scripted:
    """A row whose images take what they are told to."""

    def __init__(self, row: str, *seconds: float) -> None:
        self.row, self.left = row, list(seconds)

    def image(self) -> float:
        return self.left.pop(0)


def test_a_timed_image_follows_one_of_its_own_row() -> None:
    counted: list[None] = []
    rows = [Scripted("plan", 0.9, 0.1, 0.8, 0.2), Scripted("dense", 2.0, 0.3, 2.0, 0.4)]
    seconds = bench._take_turns(rows, 2, lambda: counted.append(None), again=True)  # type: ignore[arg-type]
    assert seconds == {"plan": [0.1, 0.2], "dense": [0.3, 0.4]}
    assert len(counted) == 4 and not any(row.left for row in rows)


def test_dense_repeats_itself(job: Job) -> None:
    image = dense.load(job)
    np.testing.assert_array_equal(image(), image())


def test_dense_with_draws_without_guidance(stochastic_bundle: Path, tmp_path: Path) -> None:
    job = prepared(stochastic_bundle, tmp_path)
    mask = Mask.load(stochastic_bundle / MASK)
    whole = replace(mask, keep=tuple((True,) * len(row) for row in mask.keep))
    latents, conditions, draws = job.inputs()
    # Three draws, of which the scheduler multiplies the last by zero.
    trace = reference_chain(
        load_model(job.source),
        whole,
        from_numpy(latents),
        {name: from_numpy(value) for name, value in conditions.items()},
        None,
        noise=[from_numpy(draw) for draw in (*draws, np.zeros_like(latents))],
    )
    assert len(draws) == 2
    np.testing.assert_allclose(dense.load(job)(), trace.final, rtol=TOLERANCE, atol=TOLERANCE)


def test_dense_computes_whole_batches_for_a_split_plan(job: Job, split_bundle: Path, tmp_path: Path) -> None:
    split = prepared(split_bundle, tmp_path)
    shapes = json.loads((tmp_path / SHAPES).read_text())
    assert [shape[0] for shape in (shapes["inputs"]["sample"], *shapes["outputs"].values())] == [2, 2]
    np.testing.assert_array_equal(dense.load(split)(), dense.load(job)())
    np.testing.assert_allclose(plan.load(split)(), plan.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)


def test_the_ideal_knows_of_a_half_that_is_left_out(bundle: Path, split_bundle: Path) -> None:
    whole, split = open_bundle(bundle).plan, open_bundle(split_bundle).plan
    kept = whole.macs["dense"] / whole.macs["kept"]
    assert bench.ideal_speedup(whole, 7.5) == bench.ideal_speedup(split, 7.5) == kept
    assert bench.ideal_speedup(split, 1.0) == 2 * kept
    assert bench.ideal_speedup(whole, 1.0) == kept  # one batch has both halves


def test_json_has_every_field(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    arguments = [str(bundle), "--vs", "dense", "--repeats", "1", "--warmup", "0", "--threads", "1"]
    ran = CliRunner().invoke(command, [*arguments, "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    assert "speedup over dense" in ran.output
    found = json.loads(file.read_text())
    assert {"machine", "scenario", "rows", "speedup", "ideal_speedup", "efficiency", "stolen"} == found.keys()
    assert found["stolen"] is None or 0 <= found["stolen"] <= 1
    assert [row["name"] for row in found["rows"]] == ["plan", "dense"]
    for row in found["rows"]:
        assert row.keys() == {"name", "seconds_per_image", "peak_pss_bytes", "load_seconds"}
        assert 0 < row["seconds_per_image"]["min"] <= row["seconds_per_image"]["median"]
        assert row["peak_pss_bytes"] > 10_000_000  # an interpreter with numpy and ONNX Runtime has more
        assert row["load_seconds"] > 0
    macs = found["scenario"]["macs"]
    assert found["ideal_speedup"] == macs["dense"] / macs["kept"] > 1
    assert found["scenario"]["mask"]["calls_run"] == 2
    assert found["scenario"]["threads"] == 1


def result(**medians: float) -> BenchResult:
    scenario = {
        "bundle": "b", "model": "m", "mask": {"calls": 4, "calls_run": 2}, "scheduler": "S", "steps": 4,
        "backend": "onnxruntime", "provider": "cpu", "precision": "fp32", "threads": 1, "repeats": 3,
    }  # fmt: skip
    rows = tuple(Row(name, (median / 2, median, median * 9), 1, 1.0) for name, median in medians.items())
    return BenchResult({}, scenario, rows, ideal_speedup=5.0)


def test_speedup_is_of_medians() -> None:
    found = result(plan=0.5, dense=2.0)
    assert found.speedup == 4.0
    assert found.efficiency == 0.8
    assert "efficiency 0.80" in as_text(found)


def test_without_dense_there_is_no_speedup() -> None:
    found = result(plan=0.5, torch=9.0)
    assert found.to_json()["speedup"] is None
    assert found.to_json()["efficiency"] is None
    assert "speedup over dense" not in as_text(found)


@pytest.mark.parametrize(("stolen", "told"), [(None, False), (0.01, False), (0.12, True)])
def test_a_disturbed_machine_is_told(stolen: float | None, told: bool) -> None:
    text = as_text(replace(result(plan=0.5, dense=2.0), stolen=stolen))
    assert ("other virtual machines took 12% of the processors' time" in text) == told


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(InputError, match="'jax'"):
        BenchOptions(versus=("jax",))


def test_a_row_that_fails_says_why(job: Job, tmp_path: Path) -> None:
    job = replace(job, workspace=str(tmp_path))
    (tmp_path / "dense.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match="'dense'"):
        Worker("dense", job)


def test_only_bundle_is_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bundles"):
        bench.find_bundle(tmp_path)
    (tmp_path / "a.dipgo").mkdir()
    assert bench.find_bundle(tmp_path) == tmp_path / "a.dipgo"
    (tmp_path / "b.dipgo").mkdir()
    with pytest.raises(InputError, match="2 bundles"):
        bench.find_bundle(tmp_path)
