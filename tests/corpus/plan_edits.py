"""Changes to what the plan says: names, sizes, places, order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.corpus.alteration import OPENS, REFUSED, Alteration, Edit, Json, edited
from tests.corpus.base import Base

HUGE = 1 << 40
OUTSIDE = (
    "../outside/early.onnx",
    "/etc/passwd",
    "sub/early.onnx",
    "..\\early.onnx",
    "C:early.onnx",
    "..",
    "",
)


def alterations(base: Base, random: Random) -> Iterator[Alteration]:
    document = base.document()
    for name, edit in REFUSALS.items():
        yield from edited(name, REFUSED, edit)
    for name, edit in (_per_value(document) | _overlaps(document, random)).items():
        yield edited(name, REFUSED, edit)[0]
    for name, edit in ALLOWED.items():
        yield from edited(name, OPENS, edit)


def tensor(d: Json, name: str) -> Json:
    return next(row for row in d["tensors"] if row["name"] == name)


def run(d: Json, engine: str) -> Json:
    """The first run of an engine."""
    return next(row for row in d["instructions"] if row.get("run") == engine)


def combine(d: Json, output: str) -> Json:
    return next(row for row in d["instructions"] if row.get("combine") == output)


def term(d: Json, output: str = "x1", index: int = 0) -> Json:
    found: Json = combine(d, output)["terms"][index]
    return found


def engine(d: Json, name: str) -> Json:
    return next(row for row in d["engines"] if row["name"] == name)


def renamed(value: Any, old: str, new: str) -> Any:
    """The document with another name for one tensor, everywhere."""
    if isinstance(value, dict):
        return {key: renamed(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, old, new) for item in value]
    return new if value == old else value


def rename(old: str, new: str) -> Edit:
    def edit(d: Json) -> None:
        keep = {name: d[name] for name in ("engines", "files")}
        d.update(renamed(copy.deepcopy(d), old, new) | keep)

    return edit


def reshape(name: str, shape: list[int], itemsize: int = 4, **fields: Any) -> Edit:
    """Another shape, with room for it."""

    def edit(d: Json) -> None:
        nbytes = itemsize
        for size in shape:
            nbytes *= size
        tensor(d, name).update(shape=shape, bytes=nbytes, **fields)
        _widen(d)

    return edit


def retype(name: str, dtype: str, itemsize: int) -> Edit:
    """Another element type in as many bytes."""

    def edit(d: Json) -> None:
        row = tensor(d, name)
        *rest, last = row["shape"]
        row.update(dtype=dtype, shape=[*rest, last * 4 // itemsize])

    return edit


def move_apart(d: Json) -> None:
    """Give every tensor a place of its own."""
    end = 0
    for row in d["tensors"]:
        if row["storage"] == "arena":
            row["offset"] = end
            end += -(-row["bytes"] // 64) * 64
    d["arena_bytes"] = end


def swap(d: Json, one: int, other: int) -> None:
    listed = d["instructions"]
    listed[one], listed[other] = listed[other], listed[one]


def _widen(d: Json) -> None:
    move_apart(d)


def _everywhere(*edits: Edit) -> Edit:
    def edit(d: Json) -> None:
        for each in edits:
            each(d)

    return edit


def _all_huge(d: Json) -> None:
    """Every tensor that no engine touches made huge, and everything consistent."""
    for name in ("latents", "draw", "x0", "x1", "x2", "x3", "x4"):
        tensor(d, name).update(shape=[1, 2, 4, HUGE], bytes=32 * HUGE)
    for name in ("s0", "s1", "s2", "h0", "h2", "e0", "e1", "e2"):
        tensor(d, name).update(shape=[2, 2, 4, HUGE], bytes=64 * HUGE)
    move_apart(d)


REFUSALS: dict[str, Edit] = {
    # what it is
    "another format": lambda d: d.update(format="dipgo.mask"),
    "a newer major version": lambda d: d.update(version=[2, 0]),
    "an older major version": lambda d: d.update(version=[0, 9]),
    "a version of one number": lambda d: d.update(version=[1]),
    "a version of three numbers": lambda d: d.update(version=[1, 1, 0]),
    "an empty version": lambda d: d.update(version=[]),
    "a negative minor version": lambda d: d.update(version=[1, -1]),
    "a version as text": lambda d: d.update(version="1.1"),
    # sizes
    "an arena of a terabyte that nothing needs": lambda d: d.update(arena_bytes=HUGE),
    "an arena one line longer than needed": lambda d: d.update(arena_bytes=d["arena_bytes"] + 4096),
    "an arena too short": lambda d: d.update(arena_bytes=d["arena_bytes"] - 64),
    "no arena": lambda d: d.update(arena_bytes=0),
    "a negative arena": lambda d: d.update(arena_bytes=-1),
    "an arena beyond 64 bits": lambda d: d.update(arena_bytes=1 << 64),
    "constants of another size": lambda d: d.update(constants_bytes=d["constants_bytes"] + 64),
    "all sizes huge, and consistent": _all_huge,
    "a latent of a terabyte": reshape("latents", [1, 2, 4, HUGE]),
    "a shape whose product overflows": lambda d: tensor(d, "x1").update(shape=[1 << 40, 1 << 40]),
    "a shape whose product is 2 to the 64": lambda d: tensor(d, "x1").update(shape=[1 << 32, 1 << 32]),
    "a shape whose product wraps to its room": lambda d: tensor(d, "x1").update(
        shape=[(1 << 47) + 16, 1 << 17]
    ),
    "an empty tensor": reshape("x1", [0, 2, 4, 4]),
    "an empty tensor of absurd shape": reshape("x1", [0, 1 << 47, 1 << 47]),
    "an empty constant of absurd shape": lambda d: tensor(d, "t0").update(shape=[0, 1 << 47, 1 << 47]),
    "a constant of a hundred axes": lambda d: tensor(d, "t0").update(shape=[1] * 100),
    "a tensor of ten thousand axes": lambda d: tensor(d, "x1").update(shape=[1 << 40] * 10_000),
    "a scalar where an engine takes a vector": lambda d: tensor(d, "t0").update(shape=[]),
    "a combination of scalars": _everywhere(
        reshape("latents", []), reshape("x0", []), reshape("draw", []), reshape("x4", [])
    ),
    # places
    "a constant beyond the file": lambda d: tensor(d, "t2").update(offset=128),
    "a constant that ends beyond the file": lambda d: tensor(d, "t2").update(shape=[33]),
    "a constant at an absurd offset": lambda d: tensor(d, "t2").update(offset=(1 << 48) - 4),
    "a constant between two elements": lambda d: tensor(d, "t2").update(offset=66),
    "a constant in the arena": lambda d: tensor(d, "t0").update(storage="arena", bytes=4, first=0, last=3),
    "a computed value among the constants": lambda d: tensor(d, "h0").update(
        storage="constants", offset=0, shape=[1]
    ),
    "storage on another planet": lambda d: tensor(d, "x1").update(storage="moon"),
    "an input among the constants": lambda d: d["inputs"].append("t0"),
    # names
    "a tensor listed twice": lambda d: d["tensors"].append(dict(d["tensors"][3])),
    "a tensor that nothing mentions": lambda d: d["tensors"].append({**tensor(d, "x1"), "name": "nobody"}),
    "a tensor left out": lambda d: d["tensors"].remove(tensor(d, "h0")),
    "an engine listed twice": lambda d: d["engines"].append(dict(d["engines"][0])),
    "an engine left out": lambda d: d["engines"].remove(engine(d, "early")),
    "engines with their files exchanged": lambda d: (
        engine(d, "early").update(file="late.onnx"),
        engine(d, "late").update(file="early.onnx"),
    ),
    "an engine input by another name": lambda d: engine(d, "early").update(inputs=["x", "tt"]),
    "an engine output by another name": lambda d: engine(d, "late").update(outputs=["ee"]),
    "an engine with its inputs named alike": lambda d: engine(d, "early").update(inputs=["x", "x"]),
    "an engine with an input too many": lambda d: engine(d, "early")["inputs"].append("z"),
    "an engine with an output too few": lambda d: (
        engine(d, "early").update(outputs=["h"]),
        [row.update(outputs=row["outputs"][:1]) for row in d["instructions"] if row.get("run") == "early"],
    ),
    "an engine file that is not listed": lambda d: d["files"].pop("early.onnx"),
    "constants that are not listed": lambda d: d["files"].pop("constants.bin"),
    "a listed file that is not there": lambda d: d["files"].update(
        {"more.bin": {"bytes": 1, "sha256": "0" * 64}}
    ),
    "a program input listed twice": lambda d: d["inputs"].append("latents"),
    "a program input that nobody gives": lambda d: d["interface"].update(draws=[]),
    "a condition named twice": lambda d: d["interface"].update(conditions=["text", "text"]),
    "one input for latents and draw": lambda d: d["interface"].update(draws=["latents"]),
    "a draw named twice": lambda d: d["interface"].update(draws=["draw", "draw"]),
    "an unknown condition": lambda d: d["interface"].update(conditions=["mood"]),
    "a computed value as condition": lambda d: d["interface"].update(conditions=["text", "x1"]),
    "unknown latents": lambda d: d["interface"].update(latents="x0"),
    "guidance of one half": lambda d: d["interface"].update(guidance=["cond"]),
    "guidance of two equal halves": lambda d: d["interface"].update(guidance=["cond", "cond"]),
    "a constant as output": lambda d: d.update(output="t0"),
    "an input as output": lambda d: d.update(output="latents"),
    "an output that is defined nowhere": lambda d: d.update(output="x9"),
    "an early value as output": lambda d: d.update(output="x1"),
    # order
    "instructions in reverse": lambda d: d["instructions"].reverse(),
    "two instructions exchanged": lambda d: swap(d, 3, 4),
    "a cycle of two runs": lambda d: run(d, "early").update(inputs=["e0", "t0"]),
    "a run that reads what it writes": lambda d: run(d, "early").update(inputs=["h0", "t0"]),
    "a combination of itself": lambda d: term(d).update(value="x1"),
    "a combination of a later value": lambda d: term(d).update(value="x3"),
    "an instruction twice": lambda d: d["instructions"].append(dict(d["instructions"][-1])),
    "the last instruction left out": lambda d: d["instructions"].pop(),
    "no instructions": lambda d: d.update(instructions=[]),
    "an instruction that reads a constant as latents": lambda d: term(d, "x0").update(value="t0"),
    "an overwritten input": lambda d: combine(d, "x0").update(combine="latents"),
    "an overwritten constant": lambda d: combine(d, "x0").update(combine="t0"),
    "a late prologue": lambda d: run(d, "late").update(prologue=True),
    "a prologue after a combination": lambda d: swap(d, 0, 1),
    "a prologue of words": lambda d: run(d, "prompt").update(prologue="yes"),
    # instructions
    "an unknown instruction": lambda d: d["instructions"].append({"jump": 0}),
    "an instruction that is two": lambda d: run(d, "early").update(combine="h0", terms=[]),
    "an instruction that is none": lambda d: d["instructions"].insert(0, {}),
    "an unknown engine": lambda d: run(d, "early").update(run="nobody"),
    "a run with an input too few": lambda d: run(d, "early").update(inputs=["s0"]),
    "a run with an input too many": lambda d: run(d, "early")["inputs"].append("t0"),
    "a run with an output too many": lambda d: run(d, "early")["outputs"].append(None),
    "a run with one output twice": lambda d: run(d, "early").update(outputs=["h0", "h0"]),
    "a run with a null input": lambda d: run(d, "early").update(inputs=[None, "t0"]),
    "a run of a value of another shape": lambda d: run(d, "early").update(inputs=["x0", "t0"]),
    "a run of a negative call": lambda d: run(d, "early").update(call=-1),
    "a run of a call that is not there": lambda d: run(d, "early").update(call=4),
    "a run of an absurd call": lambda d: run(d, "early").update(call=1 << 47),
    # combinations
    "no terms": lambda d: combine(d, "x1").update(terms=[]),
    "a term of an unknown value": lambda d: term(d).update(value="?"),
    "a coefficient that overflows": lambda d: term(d).update(constant=10**400),
    "a coefficient of words": lambda d: term(d).update(constant="1.0"),
    "a guidance of null": lambda d: term(d).update(guidance=None),
    "a term of another shape": lambda d: term(d).update(value="text"),
    "a term of twice the batch": lambda d: term(d).update(value="e0"),
    "a view beyond the end": lambda d: term(d, "x1", 1).update(view=[[0, 0, 3]]),
    "a view that begins at the end": lambda d: term(d, "x1", 1).update(view=[[0, 2, 3]]),
    "an empty view": lambda d: term(d, "x1", 1).update(view=[[0, 1, 1]]),
    "a view backwards": lambda d: term(d, "x1", 1).update(view=[[0, 1, 0]]),
    "a view along an axis that is not there": lambda d: term(d, "x1", 1).update(view=[[4, 0, 1]]),
    "a view along a negative axis": lambda d: term(d, "x1", 1).update(view=[[-1, 0, 1]]),
    "a view from a negative place": lambda d: term(d, "x1", 1).update(view=[[0, -1, 1]]),
    "a view of two numbers": lambda d: term(d, "x1", 1).update(view=[[0, 1]]),
    "a view to an absurd place": lambda d: term(d, "x1", 1).update(view=[[0, 0, 1 << 62]]),
    "views that add up to too much": lambda d: term(d, "x1", 1).update(view=[[0, 1, 2], [0, 1, 2]]),
    "a view that changes the width": lambda d: term(d).update(view=[[3, 0, 2]]),
    "an output that is no multiple of its terms": _everywhere(
        reshape("x0", [3, 2, 4, 4]), reshape("latents", [2, 2, 4, 4])
    ),
    "a combination of whole numbers": _everywhere(retype("latents", "int32", 4), retype("x0", "int32", 4)),
    "a combination of two types": retype("x0", "int32", 4),
    "double-precision latents": _everywhere(*(retype(n, "float64", 8) for n in ("latents", "x0"))),
    # engines and values
    "a whole number for an engine's float": retype("t0", "int32", 4),
    "bytes for an engine's floats": retype("h0", "uint8", 1),
    "an engine input of another shape": reshape("text", [3, 2, 5]),
    "an engine output of another shape": lambda d: tensor(d, "h0").update(shape=[4, 1, 4, 4]),
    "an engine output too short": reshape("h0", [1, 2, 4, 4]),
    "a list one level deeper": lambda d: d["model"]["config"].update(deep=nested(62)),
    # calls
    "a noise prediction that is an input": lambda d: d["calls"][0].update(noise_pred="latents"),
    "a noise prediction before its time": lambda d: d["calls"][0].update(noise_pred="e1"),
    "a noise prediction of nobody": lambda d: d["calls"][0].update(noise_pred="?"),
    "noise predictions of two shapes": lambda d: d["calls"][3].update(noise_pred="prompt"),
    "a sample of nobody": lambda d: d["calls"][0].update(sample="?"),
    "samples of two shapes": lambda d: d["calls"][0].update(sample="x0"),
    "three samples for two predictions": _everywhere(*(reshape(n, [3, 2, 4, 4]) for n in ("s0", "s1", "s2"))),
    "no calls": lambda d: d.update(calls=[]),
    "a call left out": lambda d: d.update(calls=d["calls"][:2]),
    "a timestep of words": lambda d: d["calls"][0].update(timestep="soon"),
}  # fmt: skip

NUMBERS = [0.1, 1e22, 1e-7, 1e16, 123456789012345680.0, -0.0, 5e-324, 1.7976931348623157e308, 2**53, -(2**63)]

ALLOWED: dict[str, Edit] = {
    "a newer minor version": lambda d: d.update(version=[1, 99]),
    "the first minor version": lambda d: d.update(version=[1, 0]),
    "another scheduler's name": lambda d: d["schedule"].update({"class": "OtherScheduler"}),
    "another timestep": lambda d: d["calls"][0].update(timestep=0.5),
    "another coefficient": lambda d: term(d).update(constant=-3.25),
    "a coefficient as a whole number": lambda d: term(d).update(constant=3),
    "a coefficient too small for float32": lambda d: term(d).update(constant=5e-324),
    "a coefficient too large for float32": lambda d: term(d).update(constant=1e300),
    "halves exchanged": lambda d: d["interface"].update(guidance=["cond", "uncond"]),
    "no guidance": lambda d: d["interface"].update(guidance=None),
    "a view of everything": lambda d: term(d).update(view=[[0, 0, 1], [3, 0, 4]]),
    "an empty list of views": lambda d: term(d).update(view=[]),
    "constants that overlap": lambda d: tensor(d, "t2").update(offset=tensor(d, "t0")["offset"]),
    "tensors in another order": lambda d: d["tensors"].reverse(),
    "engines in another order": lambda d: d["engines"].reverse(),
    "inputs in another order": lambda d: d["inputs"].reverse(),
    "every tensor in a place of its own": move_apart,
    "another naive size": lambda d: d.update(naive_bytes=0),
    "no sizes of engines": lambda d: [row.pop("macs", None) for row in d["engines"]],
    "a name in another script": rename("x1", "潜在変数-\U0001f600"),
    "a name with blanks and quotes": rename("x1", 'a "b" \\ /\n'),
    "an empty name": rename("x1", ""),
    "a name of a megabyte": rename("x1", "x" * (1 << 20)),
    "a model from nowhere": lambda d: d["model"].update(source="../../nowhere"),
    "numbers in all spellings": lambda d: d["model"]["config"].update(a=NUMBERS),
    "a config of every kind": lambda d: d["model"]["config"].update(
        {"": None, "é": "\u2028\x7f", "Z": True, "a": {"b": [[], {}, "\ud83d\ude00"]}}
    ),
    "a list as deep as may be": lambda d: d["model"]["config"].update(deep=nested(61)),
}  # fmt: skip

UNKNOWN_FIELD_OF: dict[str, Callable[[Json], Json]] = {
    "the plan": lambda d: d,
    "the model": lambda d: d["model"],
    "the target": lambda d: d["target"],
    "the interface": lambda d: d["interface"],
    "the schedule": lambda d: d["schedule"],
    "an engine": lambda d: d["engines"][0],
    "a tensor": lambda d: d["tensors"][0],
    "a call": lambda d: d["calls"][0],
    "a run": lambda d: run(d, "early"),
    "a combination": lambda d: combine(d, "x1"),
    "a term": lambda d: term(d),
    "a file": lambda d: d["files"]["weights.bin"],
    "a pass": lambda d: d["passes"][0],
}
ALLOWED |= {
    f"an unknown field of {what}": lambda d, of=of: of(d).update(colour={"of": ["green"]})
    for what, of in UNKNOWN_FIELD_OF.items()
}


def nested(levels: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


def _per_value(document: Json) -> dict[str, Edit]:
    """What can be wrong with the place of any value, and with the name of any file."""
    edits: dict[str, Edit] = {}
    for row in document["tensors"]:
        if row["storage"] == "constants":
            continue
        name, size = row["name"], row["bytes"]
        changes: dict[str, Json] = {
            "before the arena": {"offset": -64},
            "beyond the arena": {"offset": document["arena_bytes"]},
            "unaligned": {"offset": row["offset"] + 4},
            "with less room": {"bytes": size - 4},
            "with more room": {"bytes": size + 64},
            "freed too early": {"last": max(row["first"], row["last"] - 1), "first": row["first"]},
            "kept too long": {"last": row["last"] + 1},
            "of another type": {"dtype": "object"},
        }
        if row["last"] == row["first"]:
            del changes["freed too early"]
        for what, change in changes.items():
            edits[f"{name} {what}"] = lambda d, name=name, change=change: tensor(d, name).update(change)
    for path in OUTSIDE:
        edits[f"an engine in {path!r}"] = lambda d, path=path: (
            engine(d, "early").update(file=path),
            d["files"].update({path: d["files"]["early.onnx"]}),
        )
        edits[f"a listed file {path!r}"] = lambda d, path=path: d["files"].update(
            {path: d["files"]["mask.json"]}
        )
    return edits


def _overlaps(document: Json, random: Random) -> dict[str, Edit]:
    """Pairs of values that are alive together, one moved onto the other."""
    rows = [row for row in document["tensors"] if row["storage"] == "arena"]
    pairs = [
        (one["name"], other["name"])
        for one in rows
        for other in rows
        if one is not other and one["first"] <= other["last"] and other["first"] <= one["last"]
    ]

    def onto(name: str, other: str) -> Edit:
        def edit(d: Json) -> None:
            move_apart(d)
            tensor(d, name).update(offset=tensor(d, other)["offset"])

        return edit

    return {f"{name} on {other}": onto(name, other) for name, other in random.sample(pairs, 30)}
