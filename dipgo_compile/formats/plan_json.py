"""The format of plan.json, version 1.3. Its pipeline part is in ``pipeline_json.py``.

Readable on purpose: instructions name their tensors. Coefficients are written with the shortest digits that
read back to the same double. ``checksum`` is the SHA-256 of the document without that field, as JSON with
sorted keys and no blanks, so that damage to plan.json itself is found. A reader refuses another major version
and ignores fields it does not know. Everything read is checked before use: a bundle may come from anywhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from dipgo_compile.errors import BundleError
from dipgo_compile.formats import strict_json
from dipgo_compile.formats.fields import Field
from dipgo_compile.formats.pipeline_json import MAX_UPSCALING, dump_pipeline, read_pipeline
from dipgo_compile.plan import FileRecord, Interface, PassReport, Plan, Target
from dipgo_compile.program import (
    PROLOGUE,
    Allocation,
    Array,
    Call,
    Coefficient,
    Combine,
    Engine,
    Instruction,
    MemoryPlan,
    Program,
    Run,
    Slice,
    TensorSpec,
    Term,
)
from dipgo_compile.shapes import Shape

FORMAT = "dipgo.plan"
VERSION = (1, 3)  # what is read; a plan is written in the lowest version that can say it
ALIGNMENT = 64  # bytes: a cache line, and the widest vector load
HALVES = frozenset({"cond", "uncond"})
Json = dict[str, Any]
Bytes = npt.NDArray[np.uint8]


def constant_offsets(*tables: Mapping[str, Array]) -> tuple[list[dict[str, int]], int]:
    """Where the constants of each plan lie in the constants.bin that they share, and the file's size in
    bytes. What several plans have alike lies there once.
    """
    places: dict[bytes, int] = {}
    offsets: list[dict[str, int]] = []
    end = 0
    for constants in tables:
        known = dict(places)  # within a plan, each constant has bytes of its own
        offsets.append({})
        for name, data in constants.items():
            digest = hashlib.sha256(np.ascontiguousarray(data).data).digest()
            if digest in known:
                offsets[-1][name] = known[digest]
                continue
            offsets[-1][name] = places[digest] = end
            end += -(-data.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, end


def dump_plan(plan: Plan, offsets: Mapping[str, int] | None = None, constants_bytes: int = 0) -> str:
    """The text of a plan's file: one line per tensor, engine, call and instruction. ``offsets`` and the size
    of constants.bin are those of a plan that has the file to itself, unless they are given.
    """
    if offsets is None:
        (offsets,), constants_bytes = constant_offsets(plan.program.constants)
    document: Json = json.loads(
        json.dumps(_document(plan, offsets, constants_bytes), allow_nan=False)
    )  # tuples and keys as a reader sees them
    document["checksum"] = checksum(document)
    members = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n  ".join(_compact(row) for row in value)
            members.append(f"{json.dumps(key)}: [\n  {rows}\n ]")
        else:
            members.append(f"{json.dumps(key)}: {_compact(value)}")
    return "{\n " + ",\n ".join(members) + "\n}\n"


def parse_document(text: str, where: str = "plan.json") -> Json:
    """Check format, version and checksum. Raises BundleError."""
    try:
        document = strict_json.loads(text)
    except ValueError as error:
        raise Field(None, where).error(f"the plan is not valid JSON: {error}") from None
    root = Field(document, f"{where}: ")
    if root.get("format").text() != FORMAT:
        raise root.get("format").error(
            f"this is not a plan: the format is {document['format']!r}, not {FORMAT!r}"
        )
    version = [number.integer() for number in root.get("version").items()]
    if len(version) != 2:
        raise root.get("version").error(f"a version is a major and a minor number, not {version}")
    major = version[0]
    if major != VERSION[0]:
        raise BundleError(
            f"the plan has format version {major}; this runtime reads version {VERSION[0]}",
            where=where,
            mend="update dipgo-compile, or build the bundle again with the version that is installed",
        )
    stated = root.get("checksum").text()
    if stated != checksum({key: value for key, value in document.items() if key != "checksum"}):
        raise root.get("checksum").error(
            "the plan was altered after it was written: its checksum does not match"
        )
    return dict(root.mapping())


def read_files(document: Json, where: str = "plan.json") -> dict[str, FileRecord]:
    """The bundle's other files. Names are plain: no directories, nothing outside the bundle."""
    files = {}
    for name, record in Field(document, f"{where}: ").get("files").members().items():
        _plain(record, name)
        files[name] = FileRecord(record.get("bytes").integer(), _sha256(record.get("sha256")))
    return files


def load_plan(document: Json, constants: Bytes, where: str = "plan.json") -> Plan:
    """Read a checked document. ``constants`` are the bytes of constants.bin; the plan's constants are views
    of them.

    Raises BundleError, naming the path of the first field that is missing, ill-typed or out of range.
    """
    root = Field(document, f"{where}: ")
    if root.get("constants_bytes").integer() != constants.size:
        raise root.get("constants_bytes").error(f"constants.bin has {constants.size} bytes")
    specs, stored, memory = _read_tensors(root, constants)
    engines, engine_files = _read_engines(root)
    known = frozenset(specs)
    inputs = tuple(item.name(known, "tensor") for item in root.get("inputs").items())
    program = Program(
        engines=engines,
        specs=specs,
        inputs=inputs,
        constants=stored,
        instructions=_read_instructions(root, specs, {engine.name: engine for engine in engines}),
        calls=tuple(_read_call(item, known) for item in root.get("calls").items()),
        output=root.get("output").name(memory.allocations, "tensor in the arena"),
    )
    interface = _read_interface(root.get("interface"), frozenset(inputs))
    files = read_files(document, where)
    return Plan(
        program=program,
        memory=memory,
        model=_read_model(root.get("model")),
        interface=interface,
        target=_read_target(root.get("target")),
        schedule=_read_schedule(root.get("schedule")),
        macs=_read_macs(root.get("macs")),
        passes=tuple(
            PassReport(item.get("name").text(), item.get("modified").boolean(), item.get("summary").text())
            for item in root.get("passes").items()
        ),
        engine_files=engine_files,
        engine_macs=_read_engine_macs(root),
        files=files,
        pipeline=read_pipeline(root.get("pipeline"), program, interface, files)
        if root.has("pipeline")
        else None,
        shapes=_read_shapes(root, Shape.of(specs[interface.latents].shape), files),
        upscaling=root.get("upscaling").integer(low=1, high=MAX_UPSCALING) if root.has("upscaling") else 1,
    )


def _document(plan: Plan, offsets: Mapping[str, int], constants_bytes: int) -> Json:
    program, memory, interface = plan.program, plan.memory, plan.interface
    # Readers of older versions know nothing of images, but ask for every condition by its name.
    image = {} if interface.image_latents is None else {"image_latents": interface.image_latents}
    # Nor of halves: no input of the program has a condition's name, and two predictions are a list to them.
    split = {"split_guidance": True} if interface.split else {}
    return {
        "format": FORMAT,
        "version": [1, 3 if split or plan.shapes else 2 if plan.pipeline or image else 1],
        "model": dict(plan.model),
        "target": asdict(plan.target),
        "interface": {
            "sample": interface.sample,
            "timestep": interface.timestep,
            "conditions": [*interface.conditions, *image.values()],
            "latents": interface.latents,
            "draws": list(interface.draws),
            "guidance": None if interface.guidance is None else list(interface.guidance),
            **split,
            **image,
        },
        "schedule": dict(plan.schedule),
        "macs": dict(plan.macs),
        "arena_bytes": memory.arena_bytes,
        "naive_bytes": memory.naive_bytes,
        "constants_bytes": constants_bytes,
        "inputs": list(program.inputs),
        "output": program.output,
        "passes": [{"name": p.name, "modified": p.modified, "summary": p.summary} for p in plan.passes],
        "engines": [
            {
                "name": engine.name,
                "file": plan.engine_files[engine.name],
                "blocks": list(engine.blocks),
                "inputs": list(engine.inputs),
                "outputs": list(engine.outputs),
                **({"macs": plan.engine_macs[engine.name]} if engine.name in plan.engine_macs else {}),
            }
            for engine in program.engines
        ],
        "tensors": [_dump_tensor(name, spec, memory, offsets) for name, spec in program.specs.items()],
        "calls": [_dump_call(call) for call in program.calls],
        "instructions": [_dump_instruction(instruction) for instruction in program.instructions],
        **({} if plan.pipeline is None else {"pipeline": dump_pipeline(plan.pipeline)}),
        **({"upscaling": plan.upscaling, "shapes": _dump_shapes(plan)} if plan.shapes else {}),
        "files": {
            name: {"bytes": record.nbytes, "sha256": record.sha256} for name, record in plan.files.items()
        },
    }


def _dump_shapes(plan: Plan) -> list[Json]:
    return [{**asdict(shape), "plan": file} for shape, file in plan.shapes.items()]


def _dump_tensor(name: str, spec: TensorSpec, memory: MemoryPlan, offsets: Mapping[str, int]) -> Json:
    shown: Json = {"name": name, "dtype": spec.dtype, "shape": list(spec.shape)}
    if name in offsets:
        return {**shown, "storage": "constants", "offset": offsets[name]}
    at = memory.allocations[name]
    return {
        **shown,
        "storage": "arena",
        "offset": at.offset,
        "bytes": at.nbytes,
        "first": at.first,
        "last": at.last,
    }


def _dump_call(call: Call) -> Json:
    first, *others = call.noise_preds
    noise_pred = [first, *others] if others else first
    return {"timestep": call.timestep, "sample": call.sample, "noise_pred": noise_pred}


def _dump_instruction(instruction: Instruction) -> Json:
    if isinstance(instruction, Run):
        row: Json = {"run": instruction.engine, "call": instruction.call}
        if instruction.call == PROLOGUE:  # as part of call 0 it is right for readers of version 1.0 too
            row |= {"call": 0, "prologue": True}
        if instruction.half is not None:
            row["half"] = instruction.half
        return {**row, "inputs": list(instruction.inputs), "outputs": list(instruction.outputs)}
    terms = []
    for term in instruction.terms:
        row = {
            "value": term.value,
            "constant": term.coefficient.constant,
            "guidance": term.coefficient.guidance,
        }
        if term.view:
            row["view"] = [[part.axis, part.start, part.stop] for part in term.view]
        terms.append(row)
    return {"combine": instruction.output, "terms": terms}


def _read_tensors(
    root: Field, constants: Bytes
) -> tuple[dict[str, TensorSpec], dict[str, Array], MemoryPlan]:
    arena_bytes = root.get("arena_bytes").integer()
    specs: dict[str, TensorSpec] = {}
    stored: dict[str, Array] = {}
    allocations: dict[str, Allocation] = {}
    for item in root.get("tensors").items():
        name = item.get("name").text()
        if name in specs:
            raise item.error(f"the tensor {name!r} is listed twice")
        spec = specs[name] = item.tensor_spec()
        offset = item.get("offset").integer()
        storage = item.get("storage").text()
        if offset % np.dtype(spec.dtype).itemsize:
            raise item.get("offset").error(f"offset {offset} is not aligned for {spec.dtype}")
        if storage == "constants":
            _within(item, offset, spec.nbytes, constants.size, "constants.bin")
            stored[name] = constants[offset : offset + spec.nbytes].view(spec.dtype).reshape(spec.shape)
        elif storage == "arena":
            nbytes = item.get("bytes").integer(low=spec.nbytes)
            _within(item, offset, nbytes, arena_bytes, "the arena")
            first = item.get("first").integer()
            allocations[name] = Allocation(offset, nbytes, first, item.get("last").integer(low=first))
        else:
            raise item.get("storage").error(f"unknown storage {storage!r}: arena and constants are known")
    return specs, stored, MemoryPlan(allocations, arena_bytes, root.get("naive_bytes").integer())


def _within(item: Field, offset: int, nbytes: int, size: int, place: str) -> None:
    if offset + nbytes > size:
        raise item.get("offset").error(
            f"bytes {offset} to {offset + nbytes} lie outside {place}, which has {size}"
        )


def _read_engines(root: Field) -> tuple[tuple[Engine, ...], dict[str, str]]:
    engines: list[Engine] = []
    files: dict[str, str] = {}
    known = frozenset(root.get("files").mapping())
    for item in root.get("engines").items():
        name = item.get("name").text()
        if name in files:
            raise item.error(f"the engine {name!r} is listed twice")
        file = item.get("file")
        _plain(file, file.text())
        files[name] = file.name(known, "file")
        engines.append(
            Engine(name, item.get("blocks").texts(), item.get("inputs").texts(), item.get("outputs").texts())
        )
    return tuple(engines), files


def _read_engine_macs(root: Field) -> dict[str, int]:
    return {
        item.get("name").text(): item.get("macs").integer(high=1 << 63)
        for item in root.get("engines").items()
        if item.has("macs")
    }


def _read_instructions(
    root: Field, specs: Mapping[str, TensorSpec], engines: Mapping[str, Engine]
) -> tuple[Instruction, ...]:
    read: list[Instruction] = []
    for item in root.get("instructions").items():
        if item.has("run") and item.has("combine"):
            raise item.error("an instruction is a run or a combine, not both")
        if item.has("run"):
            read.append(_read_run(item, specs, engines))
        elif item.has("combine"):
            terms = tuple(_read_term(term, specs) for term in item.get("terms").items())
            if not terms:
                raise item.get("terms").error("a combine needs at least one term")
            read.append(Combine(terms, item.get("combine").name(specs, "tensor")))
        else:
            raise item.error("unknown instruction: run and combine are known")
    return tuple(read)


def _read_run(item: Field, specs: Mapping[str, TensorSpec], engines: Mapping[str, Engine]) -> Run:
    engine = engines[item.get("run").name(engines, "engine")]
    inputs = tuple(value.name(specs, "tensor") for value in item.get("inputs").items())
    outputs = tuple(
        None if value.value is None else value.name(specs, "tensor") for value in item.get("outputs").items()
    )
    if (len(inputs), len(outputs)) != (len(engine.inputs), len(engine.outputs)):
        raise item.error(
            f"engine {engine.name!r} has {len(engine.inputs)} inputs and {len(engine.outputs)} outputs, "
            f"the run names {len(inputs)} and {len(outputs)}"
        )
    call = item.get("call").integer()
    if item.has("prologue") and item.get("prologue").boolean():
        call = PROLOGUE
    half = item.get("half").name(HALVES, "half") if item.has("half") else None
    return Run(engine.name, call, inputs, outputs, half)


def _read_term(item: Field, specs: Mapping[str, TensorSpec]) -> Term:
    value = item.get("value").name(specs, "tensor")
    shape = specs[value].shape
    view = []
    for part in item.get("view").items() if item.has("view") else ():
        numbers = [number.integer() for number in part.items()]
        if len(numbers) != 3:
            raise part.error("a view is [axis, start, stop]")
        axis, start, stop = numbers
        if axis >= len(shape) or not start < stop <= shape[axis]:
            raise part.error(f"the view {numbers} lies outside {value!r} of shape {list(shape)}")
        view.append(Slice(axis, start, stop))
    return Term(value, Coefficient(item.get("constant").number(), item.get("guidance").number()), tuple(view))


def _read_call(item: Field, known: frozenset[str]) -> Call:
    sample, noise_pred = item.get("sample"), item.get("noise_pred")
    halves = noise_pred.items() if isinstance(noise_pred.value, list) else None
    if halves is not None and len(halves) != len(HALVES):
        raise noise_pred.error(f"a call has a noise prediction, or one for each half, not {len(halves)}")
    return Call(
        item.get("timestep").number(),
        None if sample.value is None else sample.name(known, "tensor"),
        tuple(half.name(known, "tensor") for half in halves or (noise_pred,)),
    )


def _read_target(item: Field) -> Target:
    backend = item.get("backend").text() if item.has("backend") else "onnxruntime"  # version 1.0 has no other
    return Target(item.get("provider").text(), item.get("precision").text(), backend)


def _read_interface(item: Field, inputs: frozenset[str]) -> Interface:
    guidance = item.get("guidance")
    order = None if guidance.value is None else guidance.texts()
    if order is not None and sorted(order) != ["cond", "uncond"]:
        raise guidance.error(f"the order of guidance is uncond, cond or the reverse, not {order}")
    split = item.has("split_guidance") and item.get("split_guidance").boolean()
    if split and order is None:
        raise item.get("split_guidance").error("there is no guidance to be split")
    conditions = item.get("conditions")
    image = None
    if item.has("image_latents"):
        image = item.get("image_latents").name(inputs.intersection(conditions.texts()), "condition")
    interface = Interface(
        sample=item.get("sample").text(),
        timestep=item.get("timestep").text(),
        conditions=tuple(name for name in conditions.texts() if name != image),
        latents=item.get("latents").name(inputs, "program input"),
        draws=tuple(name.name(inputs, "program input") for name in item.get("draws").items()),
        guidance=None if order is None else (order[0], order[1]),
        image_latents=image,
        split=split,
    )
    for condition in conditions.items():
        for name in () if condition.value == image else interface.inputs_of(condition.text()):
            if name not in inputs:
                raise condition.error(f"there is no program input called {name!r}")
    return interface


def _read_shapes(root: Field, own: Shape, files: Mapping[str, FileRecord]) -> dict[Shape, str]:
    """The plan files of the other shapes."""
    shapes: dict[Shape, str] = {}
    for item in root.get("shapes").items() if root.has("shapes") else ():
        shape = Shape(*(item.get(name).integer(low=1) for name in ("images", "height", "width")))
        if shape == own or shape in shapes:
            raise item.error(f"the shape {shape} is listed twice")
        shapes[shape] = item.get("plan").name(files, "file")
    return shapes


def _read_model(item: Field) -> Mapping[str, Any]:
    item.get("source").text()
    item.get("class").text()
    _sha256(item.get("config_sha256"))
    item.get("config").mapping()
    return item.mapping()


def _read_schedule(item: Field) -> Mapping[str, Any]:
    item.get("class").text()
    item.get("num_inference_steps").integer(low=1)
    for timestep in item.get("timesteps").items():
        timestep.number()
    if item.has("init_noise_sigma"):
        item.get("init_noise_sigma").number()
    return item.mapping()


def _read_macs(item: Field) -> dict[str, int]:
    """``dense`` and ``kept``, and whatever else is counted."""
    return {key: item.get(key).integer(high=1 << 63) for key in ("dense", "kept", *item.mapping())}


def _sha256(item: Field) -> str:
    if not re.fullmatch("[0-9a-f]{64}", item.text()):
        raise item.error("a SHA-256 has 64 hexadecimal digits")
    return item.text()


def _plain(item: Field, name: str) -> None:
    if not name or name.startswith(".") or any(character in name for character in "/\\:\0"):
        raise item.error(f"{name!r} is not a plain file name: files lie in the bundle itself")


def _compact(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def checksum(document: Json) -> str:
    """What a plan's ``checksum`` must be; the document is given without it."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
