from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dipgo_compile import report
from dipgo_compile.commands.inspect import inspect
from dipgo_compile.measure.profile import EngineTime
from dipgo_compile.passes.plan_memory import plan_memory
from dipgo_compile.plan import (
    FileRecord,
    Interface,
    Part,
    PassReport,
    PipelineParts,
    Plan,
    Target,
    TokenizerFile,
)
from dipgo_compile.program import (
    Call,
    Coefficient,
    Combine,
    Engine,
    Program,
    Run,
    TensorSpec,
    Term,
)

GOLDEN = Path(__file__).parent / "golden" / "report.txt"
F32 = TensorSpec("float32", (1, 4, 8, 8))


@pytest.fixture
def plan() -> Plan:
    """Five calls, of which the first computes two engines and the fourth one."""
    instructions = (
        Run("body", 0, ("latents", "t0"), ("hidden@0",)),
        Run("head", 0, ("hidden@0",), ("noise_pred@0",)),
        Combine((Term("latents", Coefficient(1.0)), Term("noise_pred@0", Coefficient(-0.5))), "sample@3"),
        Run("head", 3, ("sample@3",), ("noise_pred@3",)),
        Combine((Term("sample@3", Coefficient(1.0)), Term("noise_pred@3", Coefficient(-1.0))), "final"),
    )
    values = ("latents", "hidden@0", "noise_pred@0", "sample@3", "noise_pred@3", "final")
    program = Program(
        engines=(
            Engine("body", ("conv_in", "down_blocks.0"), ("sample", "temb"), ("hidden",)),
            Engine("head", ("up_blocks.0",), ("hidden",), ("noise_pred",)),
        ),
        specs={**dict.fromkeys(values, F32), "t0": TensorSpec("float32", (1, 16))},
        inputs=("latents",),
        constants={"t0": np.zeros((1, 16), np.float32)},
        instructions=instructions,
        calls=tuple(
            Call(t, sample, (noise_pred,))
            for t, sample, noise_pred in (
                (801, "latents", "noise_pred@0"),
                (601, None, "noise_pred@0"),
                (401, None, "noise_pred@0"),
                (201, "sample@3", "noise_pred@3"),
                (1, None, "noise_pred@3"),
            )
        ),
        output="final",
    )
    return Plan(
        program=program,
        memory=plan_memory(program),
        model={"source": "some/model", "class": "UNet2DConditionModel", "config_sha256": "0", "config": {}},
        interface=Interface("sample", "timestep", (), "latents"),
        target=Target("cpu", "fp32"),
        schedule={"class": "DDIMScheduler", "num_inference_steps": 5},
        macs={"dense": 5000, "kept": 1600},
        passes=(PassReport("apply_mask", True, "7 runs deleted"), PassReport("fold_timestep", False, "")),
        engine_files={"body": "body.onnx", "head": "head.onnx"},
        files={"weights.bin": FileRecord(4096, "0" * 64)},
    )


def test_text_is_as_it_was(plan: Plan) -> None:
    assert report.as_text(plan) + "\n" == GOLDEN.read_text()


def test_what_surrounds_the_loop_is_shown(plan: Plan) -> None:
    ids, text = TensorSpec("int64", (2, 77)), TensorSpec("float32", (2, 77, 8))
    encoder = Part("text_encoder.onnx", {"input_ids": ids}, {"text": text})
    decoder = Part("image_decoder.onnx", {"latents": F32}, {"pixels": TensorSpec("uint8", (1, 64, 48, 3))})
    parts = PipelineParts(encoder, decoder, TokenizerFile("tokenizer.json", 77), 7.5)
    lines = report.as_text(replace(plan, pipeline=parts)).splitlines()
    assert lines[3:5] == [
        "prompts     77 tokens, text_encoder.onnx",
        "pixels      64 x 48, image_decoder.onnx; guidance scale 7.5",
    ]
    named = PipelineParts(None, decoder, None, 4, classes={"dress": 3, "bag": 8})
    assert report.as_text(replace(plan, pipeline=named)).splitlines()[3] == "prompts     2 names of classes"
    assert report.facts(replace(plan, pipeline=named))["pipeline"]["classes"] == {"dress": 3, "bag": 8}
    assert report.facts(plan)["pipeline"] is None


def test_tensors_say_in_which_calls_they_are_alive(plan: Plan) -> None:
    calls = {tensor["name"]: tensor["calls"] for tensor in report.tensors(plan)}
    assert calls == {
        "latents": [-1, 0],
        "hidden@0": [0, 0],
        "noise_pred@0": [0, 0],
        "sample@3": [0, 3],
        "noise_pred@3": [3, 3],
        "final": [3, 5],
    }


def test_times_are_totalled_by_call_and_image(plan: Plan) -> None:
    times = (EngineTime("body", 1, 2_000_000, 0.002, 0.010), EngineTime("head", 2, None, None, 0.005))
    lines = report.as_times(plan, times).splitlines()
    assert any(line.split() == ["body", "1", "0.00", "10.00", "ms", "2.00", "ms"] for line in lines)
    assert any(line.split()[:4] == ["1", "call", "body,", "head"] and "15.00 ms" in line for line in lines)
    assert lines[-1] == "  an image: 0.020 s in engines"


def test_timeline_covers_every_call_once(plan: Plan) -> None:
    spans = list(report.timeline(plan))
    assert [call for span in spans for call in range(span["first"], span["last"] + 1)] == list(range(5))
    assert [span["engines"] for span in spans] == [["body", "head"], [], ["head"], []]


def test_command_prints_text_json_and_program(bundle: Path) -> None:
    text, program = (CliRunner().invoke(inspect, [str(bundle), *more]).output for more in ([], ["--program"]))
    assert "2 of 4 denoiser calls run" in text
    assert "# call 2" in program
    found = json.loads(CliRunner().invoke(inspect, [str(bundle), "--json"]).output)
    assert found["calls"] == {"total": 4, "run": 2}
    assert sum(engine["runs"] for engine in found["engines"]) == found["instructions"]["run"]
    assert found["weights_bytes"] == (bundle / "weights.bin").stat().st_size


def test_split_guidance_is_shown(split_bundle: Path) -> None:
    text = CliRunner().invoke(inspect, [str(split_bundle)]).output
    assert "8 x 8 latents, split guidance, uncond then cond" in text
    assert "4 runs and a prologue for each half," in text
    assert "half of them at guidance scale 1: ideal speedup " in text
    timeline = text.partition("timeline")[2].splitlines()
    assert timeline[1].endswith("once an image       each half: prologue")
    assert timeline[2].endswith("each half: pattern0")
    assert timeline[3].endswith("reuse")
    found = json.loads(CliRunner().invoke(inspect, [str(split_bundle), "--json"]).output)
    assert found["split_guidance"] is True
    assert found["timeline"][0]["engines"] == ["pattern0", "pattern0"]


def test_measures_every_engine(bundle: Path) -> None:
    result = CliRunner().invoke(inspect, [str(bundle), "--measure", "--json", "--threads", "1"])
    found = json.loads(result.output)
    assert [item["engine"] for item in found["times"]] == [engine["name"] for engine in found["engines"]]
    assert all(item["seconds"] > 0 for item in found["times"])
    kept = sum(item["runs"] * (item["macs"] or 0) for item in found["times"])
    assert kept == pytest.approx(2 * found["macs"]["kept"], rel=0.01)  # guidance: two samples
    assert "an image:" in CliRunner().invoke(inspect, [str(bundle), "--measure"]).output


def test_inspect_imports_no_heavy_library(bundle: Path) -> None:
    code = (
        "import sys; from dipgo_compile.commands.inspect import inspect\n"
        f"inspect([{str(bundle)!r}], standalone_mode=False)\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
