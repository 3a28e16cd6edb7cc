"""The pipeline part of plan.json: read back as written, and refused where it does not fit the program."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import toy
import toy_pipeline
from hypothesis import given
from hypothesis import strategies as st

from dipgo_compile.errors import BundleError
from dipgo_compile.formats.plan_json import checksum, constant_offsets, dump_plan, load_plan, parse_document
from dipgo_compile.plan import FileRecord, Plan

FILES = ("early.onnx", "late.onnx", "text_encoder.onnx", "image_decoder.onnx", "tokenizer.json")
CONSTANTS = np.zeros(constant_offsets(toy.program().constants)[1], np.uint8)


def plan() -> Plan:
    return replace(toy_pipeline.plan(), files={name: FileRecord(1, "0" * 64) for name in FILES})


def document() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(dump_plan(plan()))
    return written


def reload(changed: dict[str, Any]) -> Plan:
    changed["checksum"] = checksum({key: value for key, value in changed.items() if key != "checksum"})
    return load_plan(parse_document(json.dumps(changed)), CONSTANTS)


def test_round_trip() -> None:
    assert reload(document()).pipeline == toy_pipeline.parts()


def test_class_names_round_trip() -> None:
    parts = replace(toy_pipeline.parts(), text_encoder=None, tokenizer=None, classes={"dress": 3, "bag": 8})
    written = json.loads(dump_plan(replace(plan(), pipeline=parts)))
    assert reload(written).pipeline == parts


def test_a_plan_without_it_is_written_as_before() -> None:
    written = json.loads(dump_plan(replace(plan(), pipeline=None)))
    assert written["version"] == [1, 1]
    assert "pipeline" not in written
    assert reload(written).pipeline is None
    assert document()["version"] == [1, 2]


Change = Callable[[dict[str, Any]], Any]
BAD: dict[str, tuple[Change, str]] = {
    "nothing": (lambda p: p.clear(), "'text_encoder' is missing"),
    "no decoder": (lambda p: p.pop("image_decoder"), "'image_decoder' is missing"),
    "a decoder of null": (lambda p: p.update(image_decoder=None), "expected an object"),
    "a tokenizer alone": (lambda p: p.update(text_encoder=None), "need each other"),
    "an encoder alone": (lambda p: p.update(tokenizer=None), "need each other"),
    "a file outside": (lambda p: p["text_encoder"].update(file="../x.onnx"), "no file called"),
    "a file not listed": (lambda p: p["tokenizer"].update(file="other.json"), "no file called"),
    "a number for a file": (lambda p: p["image_decoder"].update(file=7), "expected a string"),
    "a scale of text": (lambda p: p.update(guidance_scale="high"), "expected a number"),
    "a negative class": (lambda p: p.update(classes={"dress": -1}), "expected an integer"),
    "no length": (lambda p: p["tokenizer"].update(length=0), "expected an integer from 1"),
    "another length": (lambda p: p["tokenizer"].update(length=4), "does not read 4 ids"),
    "ids of another type": (lambda p: ids(p).update(dtype="int32"), "int64 of two dimensions"),
    "ids of one dimension": (lambda p: ids(p).update(shape=[6]), "int64 of two dimensions"),
    "ids of another name": (lambda p: ids(p).update(name="ids"), "reads input_ids"),
    "ids for other samples": (lambda p: ids(p).update(shape=[3, 3]), "3 rows of ids"),
    "ids listed twice": (lambda p: p["text_encoder"]["inputs"].append(ids(p)), "listed twice"),
    "an unknown type": (lambda p: ids(p).update(dtype="object"), "no element type"),
    "an absurd shape": (lambda p: ids(p).update(shape=[1 << 40, 1 << 40]), "cannot be meant"),
    "no conditions": (lambda p: p["text_encoder"].update(outputs=[]), "does not give the conditions"),
    "other conditions": (lambda p: p["text_encoder"]["outputs"][0].update(shape=[2, 3, 6]), "conditions"),
    "other latents": (lambda p: p["image_decoder"]["inputs"][0].update(shape=[1, 2, 4, 5]), "reads latents"),
    "two inputs": (lambda p: p["image_decoder"]["inputs"].append(ids(p)), "reads latents"),
    "float pixels": (lambda p: pixels(p).update(dtype="float32"), "uint8 of four dimensions"),
    "grey pixels": (lambda p: pixels(p).update(shape=[1, 8, 8, 1]), "not images of latents"),
    "pixels of two images": (lambda p: pixels(p).update(shape=[2, 8, 8, 3]), "not images of latents"),
    "no pixels": (lambda p: pixels(p).update(shape=[1, 0, 8, 3]), "expected an integer from 1"),
    "pixels beside the grid": (lambda p: pixels(p).update(shape=[1, 8, 9, 3]), "not images of latents"),
    "a thousandfold image": (lambda p: pixels(p).update(shape=[1, 4000, 4000, 3]), "not images of latents"),
}


def ids(pipeline: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pipeline["text_encoder"]["inputs"][0]
    return found


def pixels(pipeline: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = pipeline["image_decoder"]["outputs"][0]
    return found


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused(case: str) -> None:
    change, message = BAD[case]
    changed = document()
    change(changed["pipeline"])
    with pytest.raises(BundleError, match=message) as caught:
        reload(changed)
    assert caught.value.where is not None and caught.value.where.startswith("plan.json: pipeline")


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@given(data=st.data())
def test_no_other_error_escapes(data: st.DataObject) -> None:
    """Any value anywhere in the part: it is read, or a BundleError says why not."""
    changed = document()
    place: Any = changed
    key: Any = "pipeline"
    while True:
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 4)) == 0:
            break
        place = inner
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    value = data.draw(JSON_VALUES)
    place[key] = value
    with contextlib.suppress(BundleError):
        assert reload(changed).pipeline is not None
