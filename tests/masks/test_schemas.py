"""The schemas are valid, and they describe what is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from dipgo_compile.formats.plan_json import dump_plan
from dipgo_compile.mask import Mask
from dipgo_compile.masks.checks import schema_text
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
    PROLOGUE,
    Allocation,
    Call,
    Coefficient,
    Combine,
    Engine,
    MemoryPlan,
    Program,
    Run,
    Slice,
    TensorSpec,
    Term,
)
from dipgo_compile.shapes import Shape

PLAN, MASK = (json.loads(schema_text(f"{name}.schema.json")) for name in ("plan", "mask"))
SPEC = TensorSpec("float32", (1, 4, 2, 2))


def plan() -> Plan:
    """One of everything that a plan can say."""
    program = Program(
        engines=(
            Engine("prologue", ("mid_block",), ("text",), ("k",)),
            Engine("all", ("conv_in", "mid_block"), ("x", "t", "k"), ("e", "spare")),
        ),
        specs={
            "latents": SPEC,
            "draw": SPEC,
            "image": SPEC,
            "text": SPEC,
            "k": SPEC,
            "t": TensorSpec("float32", (1,)),
            "e": TensorSpec("float32", (2, 4, 2, 2)),
            "out": SPEC,
        },
        inputs=("latents", "draw", "image", "text"),
        constants={"t": np.ones(1, np.float32)},
        instructions=(
            Run("prologue", PROLOGUE, ("text",), ("k",), "cond"),
            Run("all", 0, ("latents", "t", "k"), ("e", None), "cond"),
            Combine(
                (Term("latents", Coefficient(1.0)), Term("e", Coefficient(0.5, -1.0), (Slice(0, 0, 1),))),
                "out",
            ),
        ),
        calls=(Call(981.0, "latents", ("e", "e")), Call(1.5, None, ("e", "e"))),
        output="out",
    )
    values = [name for name in program.specs if name != "t"]
    places = {name: Allocation(128 * i, 64, 0, 3) for i, name in enumerate(values)}
    return Plan(
        program=program,
        memory=MemoryPlan(places, 896, 896),
        model={"source": "x", "class": "UNet2DConditionModel", "config_sha256": "0" * 64, "config": {}},
        interface=Interface(
            "sample", "timestep", ("text",), "latents", ("draw",), ("uncond", "cond"), "image", split=True
        ),
        target=Target("cpu", "fp32"),
        schedule={
            "class": "DDIMScheduler",
            "num_inference_steps": 2,
            "timesteps": [981.0, 1.5],
            "init_noise_sigma": 1.0,
            "start_step": 0,
        },
        macs={"dense": 2, "kept": 1},
        passes=(PassReport("unroll", True, "2 calls"),),
        engine_files={"prologue": "prologue.onnx", "all": "all.onnx"},
        engine_macs={"prologue": 1, "all": 1},
        files={name: FileRecord(1, "0" * 64) for name in ("prologue.onnx", "all.onnx")},
        pipeline=PipelineParts(
            Part("text.onnx", {"input_ids": TensorSpec("int64", (1, 7))}, {"text": SPEC}),
            Part("decoder.onnx", {"latents": SPEC}, {"pixels": TensorSpec("uint8", (1, 16, 16, 3))}),
            TokenizerFile("tokenizer.json", 7),
            guidance_scale=3.0,
            classes={"dress": 3},
        ),
        shapes={Shape(1, 4, 8): "plan-1x4x8.json"},
        upscaling=2,
    )


def document() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(dump_plan(plan()))
    return written


def valid(schema: dict[str, Any], instance: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(instance))


@pytest.mark.parametrize("schema", [PLAN, MASK], ids=["plan", "mask"])
def test_the_schemas_are_schemas(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


def test_a_written_plan_is_valid() -> None:
    assert [error.message for error in Draft202012Validator(PLAN).iter_errors(document())] == []


def test_every_field_of_a_written_plan_is_described() -> None:
    """Nothing is written that the schema leaves out: readers in other languages are made from it."""
    written = document()
    assert set(written) == set(PLAN["properties"]) == {*PLAN["required"], "pipeline", "shapes", "upscaling"}
    for name in ("model", "target", "interface", "schedule", "pipeline"):
        assert set(written[name]) == set(PLAN["properties"][name]["properties"])
    for name in ("passes", "engines", "calls", "shapes"):
        assert set(written[name][0]) == set(PLAN["properties"][name]["items"]["properties"])
    prologue, run, combine = written["instructions"]
    assert set(prologue) == set(run) | {"prologue"} == set(PLAN["$defs"]["run"]["properties"])
    assert set(combine) == set(PLAN["$defs"]["combine"]["properties"])
    assert set(combine["terms"][1]) == set(
        PLAN["$defs"]["combine"]["properties"]["terms"]["items"]["properties"]
    )
    part = written["pipeline"]["text_encoder"]
    assert set(part) == set(PLAN["$defs"]["part"]["properties"])
    assert set(part["inputs"][0]) == set(PLAN["$defs"]["named_tensor"]["properties"])
    fields = set().union(*written["tensors"])
    assert fields == set(PLAN["$defs"]["tensor"]["properties"])


@pytest.mark.parametrize("field", PLAN["required"])
def test_a_plan_without_a_required_field_is_invalid(field: str) -> None:
    assert not valid(PLAN, {name: value for name, value in document().items() if name != field})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(version=[2, 0]),
        lambda d: d["instructions"].append({"jump": 3}),
        lambda d: d["instructions"][2].update(terms=[]),
        lambda d: d["instructions"][0].update(prologue="yes"),
        lambda d: d["engines"][0].update(file="../../etc/passwd"),
        lambda d: d["tensors"][0].pop("bytes"),
        lambda d: d["tensors"][0].update(storage="disk"),
        lambda d: d["interface"].update(guidance=["cond", "cond"]),
        lambda d: d["interface"].update(split_guidance="yes"),
        lambda d: d["calls"][0].update(noise_pred=["e"]),
        lambda d: d["instructions"][1].update(half="both"),
        lambda d: d.update(checksum="abc"),
        lambda d: d.update(pipeline=None),
        lambda d: d["pipeline"].pop("image_decoder"),
        lambda d: d["pipeline"]["tokenizer"].update(length=0),
        lambda d: d["pipeline"]["image_decoder"].update(file="/etc/passwd"),
        lambda d: d["pipeline"]["image_decoder"]["inputs"][0].update(dtype="text"),
    ],
)
def test_a_spoilt_plan_is_invalid(spoil: Callable[[dict[str, Any]], None]) -> None:
    spoilt = document()
    spoil(spoilt)
    assert not valid(PLAN, spoilt)


def test_a_call_may_have_one_prediction_and_a_run_no_half() -> None:
    written = document()
    written["calls"][0].update(noise_pred="e")
    del written["instructions"][1]["half"]
    assert valid(PLAN, written)


def test_newer_minor_versions_and_unknown_fields_are_valid() -> None:
    assert valid(PLAN, {**document(), "version": [1, 7], "mood": "sunny"})


def test_a_written_mask_is_valid(mask: Mask, released: Mask) -> None:
    assert valid(MASK, mask.to_json())
    assert valid(MASK, released.to_json())


def test_the_readme_shows_a_mask_that_loads(repository: Path) -> None:
    text = (repository / "schema" / "README.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert Mask.from_json(json.loads(example)).calls == 4
