"""The plan's file format: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from dipgo_compile.bundle import open_bundle
from dipgo_compile.errors import BundleError
from dipgo_compile.formats.plan_json import checksum, dump_plan, load_plan, parse_document
from dipgo_compile.plan import FileRecord, Plan
from dipgo_compile.program import Coefficient, Combine, Term

FINITE = st.floats(allow_nan=False, allow_infinity=False)
CONSTANTS = np.concatenate(
    [np.pad(data.view(np.uint8), (0, 60)) for data in toy.program().constants.values()]
)  # one float each, 64-byte aligned


def filed(plan: Plan) -> Plan:
    """The plan as the bundle writer leaves it."""
    return replace(plan, files={name: FileRecord(1, "0" * 64) for name in plan.engine_files.values()})


def document() -> dict[str, Any]:
    return json.loads(dump_plan(filed(toy.plan())))


def reload(changed: dict[str, Any]) -> Plan:
    changed["checksum"] = checksum({key: value for key, value in changed.items() if key != "checksum"})
    return load_plan(parse_document(json.dumps(changed)), CONSTANTS)


def test_round_trip_keeps_everything() -> None:
    plan = filed(toy.plan())
    read = load_plan(parse_document(dump_plan(plan)), CONSTANTS)
    assert replace(read, program=replace(read.program, constants={})) == replace(
        plan, program=replace(plan.program, constants={})
    )
    for name, data in plan.program.constants.items():
        np.testing.assert_array_equal(read.program.constants[name], data)


@given(constant=FINITE, guidance=FINITE)
def test_coefficients_round_trip_to_the_last_bit(constant: float, guidance: float) -> None:
    plan = filed(toy.plan())
    first, *others = plan.program.instructions
    assert isinstance(first, Combine)
    first = Combine((Term("latents", Coefficient(constant, guidance)),), first.output)
    plan = replace(plan, program=replace(plan.program, instructions=(first, *others)))
    read = load_plan(parse_document(dump_plan(plan)), CONSTANTS).program.instructions[0]
    assert isinstance(read, Combine)
    got = read.terms[0].coefficient
    assert (got.constant.hex(), got.guidance.hex()) == (constant.hex(), guidance.hex())


def test_text_is_stable() -> None:
    assert dump_plan(filed(toy.plan())) == dump_plan(filed(toy.plan()))


def test_fields_of_a_later_minor_version_are_ignored() -> None:
    changed = document()
    changed["version"] = [1, 7]
    changed["colour"] = "green"
    changed["tensors"][0]["colour"] = "green"
    assert reload(changed).program.output == toy.program().output


def test_another_major_version_is_refused_by_name() -> None:
    changed = document()
    changed["version"] = [2, 0]
    with pytest.raises(BundleError, match=r"version 2; this runtime reads version 1") as caught:
        reload(changed)
    assert "update dipgo-compile" in str(caught.value)


Change = Callable[[dict[str, Any]], Any]
BAD: dict[str, tuple[Change, str]] = {
    "another format": (lambda d: d.update(format="dipgo.mask"), "not a plan"),
    "no format": (lambda d: d.pop("format"), "'format' is missing"),
    "empty version": (lambda d: d.update(version=[]), "a major and a minor number"),
    "no engines": (lambda d: d.pop("engines"), "'engines' is missing"),
    "a string for an array": (lambda d: d.update(tensors="x"), "expected an array"),
    "a float for a size": (lambda d: d.update(arena_bytes=1.5), "expected an integer"),
    "true for a size": (lambda d: d.update(arena_bytes=True), "expected an integer"),
    "a negative offset": (lambda d: d["tensors"][0].update(offset=-64), "expected an integer from 0"),
    "an absurd offset": (lambda d: d["tensors"][0].update(offset=1 << 40), "lie outside the arena"),
    "an offset beyond int64": (
        lambda d: d["tensors"][0].update(offset=1 << 70),
        "beyond 64 bits",
    ),
    "an absurd shape": (lambda d: d["tensors"][0].update(shape=[1 << 40, 1 << 40]), "cannot be meant"),
    "an unaligned offset": (lambda d: d["tensors"][0].update(offset=2), "not aligned"),
    "constants out of range": (lambda d: tensor(d, "t2").update(offset=128), "lie outside constants.bin"),
    "a tensor without room": (lambda d: d["tensors"][0].update(bytes=4), "expected an integer from 128"),
    "an unknown dtype": (lambda d: d["tensors"][0].update(dtype="object"), "no element type"),
    "an unknown storage": (lambda d: d["tensors"][0].update(storage="disk"), "unknown storage"),
    "a tensor listed twice": (lambda d: d["tensors"].append(d["tensors"][0]), "listed twice"),
    "an engine listed twice": (lambda d: d["engines"].append(d["engines"][0]), "listed twice"),
    "an unknown engine": (lambda d: d["instructions"][2].update(run="nobody"), "no engine called 'nobody'"),
    "an unknown input": (lambda d: d["instructions"][2].update(inputs=["?", "t0"]), "no tensor called"),
    "a missing input": (lambda d: d["instructions"][2].update(inputs=["s0"]), "2 inputs and 2 outputs"),
    "an unknown instruction": (lambda d: d["instructions"].append({"jump": 0}), "unknown instruction"),
    "no terms": (lambda d: d["instructions"][0].update(terms=[]), "at least one term"),
    "a view out of range": (lambda d: term(d).update(view=[[0, 0, 9]]), "lies outside"),
    "an empty view": (lambda d: term(d).update(view=[[0, 1, 1]]), "lies outside"),
    "a short view": (lambda d: term(d).update(view=[[0, 1]]), r"\[axis, start, stop\]"),
    "an overflowing coefficient": (lambda d: term(d).update(constant=10**400), "beyond 64 bits"),
    "an engine outside": (lambda d: d["engines"][0].update(file="../early.onnx"), "not a plain file name"),
    "an absolute engine": (lambda d: d["engines"][0].update(file="/etc/passwd"), "not a plain file name"),
    "an engine that is not listed": (lambda d: d["engines"][0].update(file="x.onnx"), "no file called"),
    "a file outside": (lambda d: d["files"].update({"..\\x": {"bytes": 1, "sha256": ""}}), "not a plain"),
    "an unknown condition": (lambda d: d["interface"].update(conditions=["mood"]), "no program input"),
    "an image that is no condition": (
        lambda d: d["interface"].update(image_latents="draw"),
        "no condition called 'draw'",
    ),
    "an unknown order": (lambda d: d["interface"].update(guidance=["left", "right"]), "order of guidance"),
    "a constant output": (lambda d: d.update(output="t0"), "no tensor in the arena called"),
}


def tensor(changed: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in changed["tensors"] if row["name"] == name)


def term(changed: dict[str, Any]) -> dict[str, Any]:
    return changed["instructions"][0]["terms"][0]


@pytest.mark.parametrize("case", BAD)
def test_malformed_plans_are_refused(case: str) -> None:
    change, message = BAD[case]
    changed = document()
    change(changed)
    with pytest.raises(BundleError, match=message) as caught:
        reload(changed)
    assert caught.value.where is not None and caught.value.where.startswith("plan.json")


def test_older_readers_ask_for_an_image_as_for_any_condition() -> None:
    plan = filed(toy.plan())
    plan = replace(plan, interface=replace(plan.interface, draws=(), image_latents="draw"))
    written = json.loads(dump_plan(plan))
    assert written["version"] == [1, 2]
    assert written["interface"]["conditions"] == ["text", "draw"]
    assert reload(written).interface == plan.interface
    assert document()["version"] == [1, 1]


def test_an_error_names_the_path() -> None:
    changed = document()
    changed["tensors"][3]["shape"] = [1, "2"]
    with pytest.raises(BundleError) as caught:
        reload(changed)
    assert caught.value.where == "plan.json: tensors[3].shape[1]"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | FINITE
    | st.text(max_size=4)
    | st.just("x1")
    | st.just("early"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_other_error_escapes(data: st.DataObject, pristine: Path) -> None:
    """Any value anywhere in the plan, correctly signed: the bundle opens or a BundleError says why not."""
    text = (pristine / "plan.json").read_text()
    changed = json.loads(text)
    place: Any = changed
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 4)) == 0:
            break
        place = inner
    place[key] = data.draw(JSON_VALUES)
    changed["checksum"] = checksum({name: value for name, value in changed.items() if name != "checksum"})
    try:
        (pristine / "plan.json").write_text(json.dumps(changed))
        open_bundle(pristine)
    except BundleError:
        pass
    finally:
        (pristine / "plan.json").write_text(text)
