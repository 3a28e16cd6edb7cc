"""Changes to a bundle for two shapes: its list of plans, the further plan, and how the two fit together.

Here the base is not the usual one: each alteration puts the toy for two images, and for one, in its place.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.corpus.alteration import (
    OPENS,
    PLAN,
    REFUSED,
    Alteration,
    Change,
    Edit,
    Json,
    put,
    put_plan,
    put_recorded,
    read_plan,
    sealed,
)
from tests.corpus.base import Base
from tests.runtime import toy

OTHER = "plan-1x4x4.json"
OTHER_ENGINES = ("early-1x4x4.onnx", "late-1x4x4.onnx")


def alterations(base: Base, random: Random) -> Iterator[Alteration]:
    two = toy.write_two_shapes(base.path.parent / f"two-{random.randrange(1 << 32)}.dipgo")

    def altered(name: str, verdict: str, change: Change) -> Alteration:
        def put_two_and_change(bundle: Path) -> None:
            shutil.rmtree(bundle)
            bundle.mkdir()
            for file in two.iterdir():
                if file.is_file():
                    os.link(file, bundle / file.name)
            change(bundle)

        return Alteration(name, verdict, put_two_and_change)

    yield altered("two shapes", OPENS, lambda bundle: None)
    for name, verdict, edit in LISTS:
        yield altered(name, verdict, in_first(edit))
    for name, verdict, edit in OTHERS:
        yield altered(f"the further plan {name}", verdict, in_other(edit))
    for name, verdict, change in FILES:
        yield altered(name, verdict, change)


def in_first(edit: Edit) -> Change:
    def change(bundle: Path) -> None:
        document = read_plan(bundle)
        edit(document)
        put_plan(bundle, sealed(document))

    return change


def in_other(edit: Edit) -> Change:
    """Checksum, size and hash are made right, as an attacker would."""

    def change(bundle: Path) -> None:
        document: Json = json.loads((bundle / OTHER).read_text(encoding="utf-8"))
        edit(document)
        put_recorded(bundle, OTHER, json.dumps(sealed(document)).encode())

    return change


def listed(**fields: object) -> Edit:
    """Another entry of the list."""
    return lambda d: d["shapes"][0].update(fields)


def _twice(d: Json) -> None:
    d["shapes"].append(dict(d["shapes"][0]))


def _nested(d: Json) -> None:
    d["shapes"] = [{"images": 4, "height": 4, "width": 4, "plan": "mask.json"}]


def _other_weights(d: Json) -> None:
    d["files"]["weights.bin"]["sha256"] = "0" * 64


def _unlisted_file(d: Json) -> None:
    d["files"]["more.bin"] = {"bytes": 1, "sha256": "0" * 64}


def _without_last_call(d: Json) -> None:
    d["calls"].pop()


def _read_before_defined(d: Json) -> None:
    d["instructions"].reverse()


def _wider_arena(d: Json) -> None:
    """Larger than the first's, and used to its end."""
    last = max((row for row in d["tensors"] if row["storage"] == "arena"), key=lambda row: row["offset"])
    last["offset"] = 1 << 20
    d["arena_bytes"] = last["offset"] + -(-last["bytes"] // 64) * 64


def _first_for_last(bundle: Path) -> None:
    """The smaller plan as plan.json, the larger one beside it."""
    first, other = read_plan(bundle), json.loads((bundle / OTHER).read_text(encoding="utf-8"))
    files = {name: entry for name, entry in first["files"].items() if name != OTHER}
    del first["shapes"], first["upscaling"]
    first["files"] = files
    other["files"] = files
    other["shapes"] = [{"images": 2, "height": 4, "width": 4, "plan": "plan-2x4x4.json"}]
    put_plan(bundle, sealed(other))
    put_recorded(bundle, "plan-2x4x4.json", json.dumps(sealed(first)).encode())


def _cut(bundle: Path) -> None:
    put_recorded(bundle, OTHER, (bundle / OTHER).read_bytes()[:-20])


def _flipped(bundle: Path) -> None:
    data = bytearray((bundle / OTHER).read_bytes())
    data[len(data) // 2] ^= 1
    put(bundle, OTHER, bytes(data))


LISTS: tuple[tuple[str, str, Edit], ...] = (
    ("no shapes", OPENS, lambda d: d.update(shapes=[])),
    ("no list of shapes", OPENS, lambda d: d.pop("shapes")),
    ("no upscaling", OPENS, lambda d: d.pop("upscaling")),
    ("a shape with a field more", OPENS, listed(name="portrait")),
    ("shapes that are no list", REFUSED, lambda d: d.update(shapes={})),
    ("a shape of no images", REFUSED, listed(images=0)),
    ("a shape of half an image", REFUSED, listed(images=0.5)),
    ("a shape without a height", REFUSED, lambda d: d["shapes"][0].pop("height")),
    ("a shape without a plan", REFUSED, lambda d: d["shapes"][0].pop("plan")),
    ("a shape that its plan is not of", REFUSED, listed(images=3)),
    ("a width that its plan is not of", REFUSED, listed(width=8)),
    ("the plan's own shape", REFUSED, listed(images=2)),
    ("a shape twice", REFUSED, _twice),
    ("a plan that is no file", REFUSED, listed(plan="plan-9x9x9.json")),
    ("a plan outside", REFUSED, listed(plan="../outside/plan.json")),
    ("an engine for a plan", REFUSED, listed(plan="early.onnx")),
    ("the mask for a plan", REFUSED, listed(plan="mask.json")),
    ("the plan for its further plan", REFUSED, listed(plan=PLAN)),
    ("an upscaling of 0", REFUSED, lambda d: d.update(upscaling=0)),
    ("an upscaling of 65", REFUSED, lambda d: d.update(upscaling=65)),
    ("an upscaling of a word", REFUSED, lambda d: d.update(upscaling="8")),
)
OTHERS: tuple[tuple[str, str, Edit], ...] = (
    ("with a field more", OPENS, lambda d: d.update(more=1)),
    ("of a newer minor version", OPENS, lambda d: d.update(version=[1, 99])),
    ("of another major version", REFUSED, lambda d: d.update(version=[2, 0])),
    ("with further plans", REFUSED, _nested),
    ("of another model", REFUSED, lambda d: d["model"].update(config_sha256="1" * 64)),
    ("of another schedule", REFUSED, lambda d: d["schedule"].update(num_inference_steps=5)),
    ("with another order of guidance", REFUSED, lambda d: d["interface"].update(guidance=["cond", "uncond"])),
    ("with a call less", REFUSED, _without_last_call),
    ("with another weight file", REFUSED, _other_weights),
    ("with a file that plan.json does not list", REFUSED, _unlisted_file),
    ("that reads before it defines", REFUSED, _read_before_defined),
    ("with a larger arena than the first", REFUSED, _wider_arena),
    ("with other constants", REFUSED, lambda d: d.update(constants_bytes=d["constants_bytes"] + 64)),
    ("with the engines of the first", REFUSED, lambda d: d["engines"][0].update(file="early.onnx")),
)
FILES: tuple[tuple[str, str, Change], ...] = (
    ("no further plan", REFUSED, lambda bundle: (bundle / OTHER).unlink()),
    ("an empty further plan", REFUSED, lambda bundle: put_recorded(bundle, OTHER, b"")),
    ("a further plan that is no JSON", REFUSED, _cut),
    ("a further plan with a bit flipped", REFUSED, _flipped),
    ("no engine of the further plan", REFUSED, lambda bundle: (bundle / OTHER_ENGINES[0]).unlink()),
    ("the larger shape beside the smaller", REFUSED, _first_for_last),
)
