"""Every field of the plan with a value of another kind, and without each field that must be there.

The verdict comes from ``schema/plan.schema.json``, which shares nothing with the readers: what it finds
invalid, they must refuse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from jsonschema import Draft202012Validator

from dipgo_compile.masks.checks import schema_text
from tests.corpus.alteration import REFUSED, Alteration, Edit, Json, edited
from tests.corpus.base import Base

VALUES = (None, True, -1, 0.5, 1e300, 1 << 63, "x", "", [], [[]], {}, {"name": "x"})
SAMPLE = 260
SCHEMA: Json = json.loads(schema_text("plan.schema.json"))
Path = tuple[str | int, ...]


def alterations(base: Base, random: Random) -> Iterator[Alteration]:
    document = base.document()
    found = dict(_edits(document, SCHEMA, ()))
    for name in random.sample(sorted(found), SAMPLE):
        yield edited(name, REFUSED, found[name])[0]


def _edits(value: Any, schema: Json, path: Path) -> Iterator[tuple[str, Edit]]:
    """Invalid values for this place and all below it, by name."""
    schema = _resolved(schema, value)
    where = (
        "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".") or "the plan"
    )
    if path:
        validator = Draft202012Validator({**schema, "$defs": SCHEMA["$defs"]})
        for wrong in VALUES:
            if not validator.is_valid(wrong):
                yield f"{where} = {json.dumps(wrong)}", _replaced(path, wrong)
    if isinstance(value, dict):
        for field in schema.get("required", []):
            yield f"{where} without {field}", _replaced((*path, field))
        described = schema.get("properties", {})
        for key, item in value.items():
            below = described.get(key, schema.get("additionalProperties"))
            if below is not None and key != "checksum":
                yield from _edits(item, below, (*path, key))
    elif isinstance(value, list) and "items" in schema and schema["items"]:
        for index, item in enumerate(value):
            yield from _edits(item, schema["items"], (*path, index))


def _resolved(schema: Json, value: Any) -> Json:
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "oneOf" in schema:
        schema = SCHEMA["$defs"]["run" if "run" in value else "combine"]
    return schema


MISSING = object()


def _replaced(path: Path, value: Any = MISSING) -> Edit:
    def edit(d: Json) -> None:
        *outer, last = path
        place: Any = d
        for key in outer:
            place = place[key]
        if value is MISSING:
            del place[last]
        else:
            place[last] = value

    return edit
