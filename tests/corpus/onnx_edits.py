"""Changes to an engine's ONNX file that the plan was made to agree with: its size and hash are right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import onnx
from onnx import TensorProto, helper

from tests.corpus.alteration import EITHER, OPENS, REFUSED, Alteration, put, put_recorded
from tests.corpus.base import Base

FILE = "early.onnx"  # y = scale * x + t; its weight "scale" is 8 bytes of weights.bin
FLIPS, CUTS = 40, 6
Edit = Callable[[onnx.ModelProto], object]


def alterations(base: Base, random: Random) -> Iterator[Alteration]:
    data = (base.path / FILE).read_bytes()
    for at in sorted(random.sample(range(len(data)), FLIPS)):
        flipped = bytes([data[at] ^ random.randrange(1, 256)])
        yield _recorded(f"byte {at} changed", EITHER, data[:at] + flipped + data[at + 1 :])
    for size in sorted(random.sample(range(len(data)), CUTS)):
        yield _recorded(f"cut to {size} bytes", EITHER, data[:size])
    yield _recorded("empty", REFUSED, b"")
    yield _recorded("of zeros", REFUSED, bytes(1000))
    yield _recorded("no protocol buffer", REFUSED, b"\xff" * 1000)
    for name, edit in REFUSALS.items():
        yield _model(name, REFUSED, edit)
    for name, edit in ALLOWED.items():
        yield _model(name, OPENS, edit)
    outside = base.outside / "weights.bin"
    for location in (
        "../outside/weights.bin",
        str(outside),
        "./../outside/weights.bin",
        "x/../../outside/weights.bin",
    ):
        yield _model(f"weights in {_shown(location, outside)}", REFUSED, external(location=location))
    yield from _links(base)
    yield Alteration("weights in a file that the plan does not list", REFUSED, _unlisted)
    yield Alteration("an external weight behind a tag of more than 32 bits", REFUSED, _disguised)


def _shown(location: str, outside: Path) -> str:
    """Without the place of the corpus, so that names are the same everywhere."""
    return "/ABSOLUTE" if location == str(outside) else location


def _recorded(name: str, verdict: str, data: bytes) -> Alteration:
    return Alteration(name, verdict, lambda bundle: put_recorded(bundle, FILE, data))


def _model(name: str, verdict: str, edit: Edit) -> Alteration:
    def change(bundle: Path) -> None:
        model = onnx.load(bundle / FILE, load_external_data=False)
        edit(model)
        put_recorded(bundle, FILE, model.SerializeToString())

    return Alteration(name, verdict, change)


def _links(base: Base) -> Iterator[Alteration]:
    """Weights that the plan doesn't list, behind a link."""

    def linked(link: str, target: Path, location: str) -> Callable[[Path], None]:
        def change(bundle: Path) -> None:
            (bundle / link).symlink_to(target)
            model = onnx.load(bundle / FILE, load_external_data=False)
            external(location=location)(model)
            put_recorded(bundle, FILE, model.SerializeToString())

        return change

    absolute = base.outside / "weights.bin"
    relative = Path(os.path.relpath(absolute, base.path))
    yield Alteration("weights behind a link", REFUSED, linked("more.bin", absolute, "more.bin"))
    yield Alteration("weights behind a relative link", REFUSED, linked("more.bin", relative, "more.bin"))
    yield Alteration(
        "weights behind a linked directory", REFUSED, linked("more", base.outside, "more/weights.bin")
    )


def _unlisted(bundle: Path) -> None:
    put(bundle, "more.bin", (bundle / "weights.bin").read_bytes())
    model = onnx.load(bundle / FILE, load_external_data=False)
    external(location="more.bin")(model)
    put_recorded(bundle, FILE, model.SerializeToString())


def _disguised(bundle: Path) -> None:
    """A second weight, outside, in a field whose number only a reader that drops its upper bits knows."""
    model = onnx.load(bundle / FILE, load_external_data=False)
    extra = onnx.GraphProto()
    extra.initializer.append(model.graph.initializer[0])
    extra.initializer[0].name = "more"
    next(
        entry for entry in extra.initializer[0].external_data if entry.key == "location"
    ).value = "/etc/passwd"
    graph = extra.SerializeToString()
    tag = 1 << 32 | 7 << 3 | 2  # ModelProto.graph, but for the first bit
    head = [tag >> shift & 0x7F | 0x80 for shift in range(0, 28, 7)] + [tag >> 28, len(graph)]
    put_recorded(bundle, FILE, (bundle / FILE).read_bytes() + bytes(head) + graph)


def external(**entries: str | int) -> Edit:
    """Other places for the weight's bytes."""

    def edit(model: onnx.ModelProto) -> None:
        (weight,) = model.graph.initializer
        listed = {entry.key: entry.value for entry in weight.external_data}
        listed |= {key: str(value) for key, value in entries.items()}
        del weight.external_data[:]
        for key, value in listed.items():
            weight.external_data.add(key=key, value=value)

    return edit


def weight(edit: Callable[[TensorProto], object]) -> Edit:
    return lambda model: edit(model.graph.initializer[0])


def node(**fields: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(model.graph.node[0], name, value)

    return edit


def cycle(model: onnx.ModelProto) -> None:
    multiply, _, negate = model.graph.node
    multiply.input[0] = negate.output[0]


def dims(*sizes: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sizes)

    return edit


def declared(kind: str, index: int, dtype: int, shape: tuple[int, ...]) -> Edit:
    """Another type for an input or an output."""

    def edit(model: onnx.ModelProto) -> None:
        value = getattr(model.graph, kind)[index]
        value.CopyFrom(helper.make_tensor_value_info(value.name, dtype, shape))

    return edit


def opset(version: int) -> Edit:
    return lambda model: setattr(model.opset_import[0], "version", version)


REFUSALS: dict[str, Edit] = {
    "weights in no file": external(location="nowhere.bin"),
    "weights in the bundle's directory": external(location="."),
    "weights without a location": external(location=""),
    "weights far beyond the file": external(offset=1 << 40),
    "weights at the end of all numbers": external(offset=(1 << 63) - 4),
    "weights before the file": external(offset=-8),
    "weights at no number": external(offset="eight"),
    "weights at a number beyond 64 bits": external(offset=1 << 64),
    "a length that is not the weight's": external(length=4),
    "an absurd length": external(length=1 << 40),
    "a negative length": external(length=-8),
    "a weight of a terabyte": dims(1, 2, 1 << 20, 1 << 17),
    "a weight of an overflowing size": dims(1 << 32, 1 << 32),
    "a weight of a negative size": dims(1, -2, 1, 1),
    "a weight of an unknown type": weight(lambda tensor: setattr(tensor, "data_type", 99)),
    "a weight of words": weight(lambda tensor: setattr(tensor, "data_type", TensorProto.STRING)),
    "an unknown operator": node(op_type="Multiplicate"),
    "an operator of an unknown domain": node(domain="com.example"),
    "a node without a known input": node(op_type="Concat"),
    "a cycle": cycle,
    "no nodes": lambda model: model.graph.ClearField("node"),
    "no graph": lambda model: model.ClearField("graph"),
    "an opset of the far future": opset(9999),
    "a negative opset": opset(-1),
    "a format of the far future": lambda model: setattr(model, "ir_version", 9999),
    "an input of another type": declared("input", 1, TensorProto.INT64, (1,)),
    "an input of another shape": declared("input", 1, TensorProto.FLOAT, (2,)),
    "an input of another rank": declared("input", 0, TensorProto.FLOAT, (2, 32)),
    "an output of another type": declared("output", 0, TensorProto.INT64, (2, 2, 4, 4)),
    "an input too many": lambda model: model.graph.input.append(
        helper.make_tensor_value_info("more", TensorProto.FLOAT, (1,))
    ),
    "an output twice": lambda model: model.graph.output.append(model.graph.output[0]),
}

ALLOWED: dict[str, Edit] = {
    "another producer": lambda model: setattr(model, "producer_name", "someone else"),
    "unknown metadata": lambda model: model.metadata_props.add(key="colour", value="green"),
    "an axis of unknown size": declared("input", 1, TensorProto.FLOAT, ("n",)),
}
