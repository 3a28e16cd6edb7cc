"""Measuring bundles for OpenVINO: the baseline is OpenVINO too, and so is what is verified."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from dipgo_compile import bench
from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.bundle import open_bundle
from dipgo_compile.commands.bench import bench as bench_command
from dipgo_compile.commands.verify import verify as verify_command
from dipgo_compile.compare import compare
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import TOLERANCES
from dipgo_compile.measure.rows import prepare
from dipgo_compile.plan import Target
from dipgo_compile.report import as_text

ov = pytest.importorskip("openvino")
BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not BF16, reason="this processor has no bfloat16")


@pytest.fixture(scope="module")
def low(mask: Mask, exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "low.dipgo"
    options = BuildOptions(backend="openvino", precision="bf16")
    return build(mask, output=output, exported=exported, options=options).path


def test_a_plan_says_what_it_was_built_for(low: Path) -> None:
    plan = open_bundle(low).plan
    assert plan.target == Target("cpu", "bf16", "openvino")
    assert "target      openvino on cpu, bf16\n" in as_text(plan)
    assert {spec.dtype for spec in plan.program.specs.values()} == {"float32"}


@pytest.mark.parametrize("guidance", [True, False])
def test_verifies_in_fp32(guidance: bool, mask: Mask, tmp_path: Path) -> None:
    options = BuildOptions(backend="openvino", guidance=guidance)
    found = compare(build(mask, output=tmp_path / "b.dipgo", options=options).path, threads=1)
    assert found.tolerance == TOLERANCES["fp32"]
    found.check()


@needs_bf16
def test_verifies_in_bf16_with_a_tolerance_of_its_own(low: Path) -> None:
    found = compare(low, threads=1)
    assert found.tolerance == TOLERANCES["bf16"]
    assert found.latents_relative_l2 > TOLERANCES["fp32"].latents  # it was bfloat16 indeed
    found.check()


def test_a_bf16_plan_verifies_tightly_in_fp32(low: Path) -> None:
    ran = CliRunner().invoke(
        verify_command, [str(low), "--precision", "fp32", "--json", "-", "--threads", "1"]
    )
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.output)
    assert found["tolerance"] == {"noise_pred": 1e-3, "latents": 1e-3}
    assert found["passed"]


@needs_bf16
def test_one_given_tolerance_leaves_the_other_at_the_bundle_s_precision(low: Path) -> None:
    ran = CliRunner().invoke(verify_command, [str(low), "--tolerance", "2", "--json", "-", "--threads", "1"])
    found = json.loads(ran.output)
    assert found["tolerance"] == {"noise_pred": 2.0, "latents": TOLERANCES["bf16"].latents}


@needs_bf16
def test_bench_measures_the_plan_s_backend_in_both_rows(low: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    arguments = [str(low), "--vs", "dense", "--repeats", "1", "--warmup", "0", "--threads", "1"]
    ran = CliRunner().invoke(bench_command, [*arguments, "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    assert "openvino on cpu, bf16" in ran.output
    found = json.loads(file.read_text())
    assert {key: found["scenario"][key] for key in ("backend", "provider", "precision")} == {
        "backend": "openvino",
        "provider": "cpu",
        "precision": "bf16",
    }
    assert [row["name"] for row in found["rows"]] == ["plan", "dense"]
    assert "openvino" in found["machine"]["versions"]


@needs_bf16
def test_the_dense_row_loads_the_plan_s_backend_alone(low: Path, tmp_path: Path) -> None:
    """In a process of its own, as a row is: what is loaded there shows what computes."""
    opened = open_bundle(low)
    job = bench._job(opened, bench.BenchOptions(threads=1), str(tmp_path))
    prepare.store_inputs(opened, tmp_path)
    prepare.store_dense(opened, job.source, tmp_path)
    script = """if True:
        import json, sys
        from dipgo_compile.measure.rows import Job, dense
        latents = dense.load(Job(**json.loads(sys.argv[1])))()
        print(*latents.shape, "openvino" in sys.modules, "onnxruntime" in sys.modules)
    """
    asked = json.dumps(asdict(job))
    ran = subprocess.run([sys.executable, "-c", script, asked], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == ["1", "4", "8", "8", "True", "False"]
