"""A plan as text for people: what runs when, what the passes did, what it costs. Reads the plan only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dipgo_compile.bundle import WEIGHTS
from dipgo_compile.formats.pipeline_json import dump_pipeline
from dipgo_compile.plan import Plan
from dipgo_compile.program import PROLOGUE, Combine, Run
from dipgo_compile.shapes import Shapes

if TYPE_CHECKING:
    from dipgo_compile.measure.profile import EngineTime

LABEL = 12  # characters
LARGEST = 10  # tensors shown


def facts(plan: Plan, shapes: Shapes | None = None) -> dict[str, Any]:
    """The report as JSON. Sizes are bytes; ``macs`` are multiply-accumulates of one image. ``shapes`` are
    those of the bundle that the plan is from: by default the plan's own.
    """
    shapes = shapes or Shapes((plan.shape,))
    program, memory, interface = plan.program, plan.memory, plan.interface
    runs = Counter(run.engine for run in program.runs())
    images, _, height, width = program.specs[interface.latents].shape
    return {
        "model": {key: plan.model[key] for key in ("source", "class", "config_sha256")},
        "target": asdict(plan.target),
        "images": images,
        "latents": [height, width],
        "shapes": [{**asdict(shape), "name": shapes.label(shape)} for shape in shapes],
        "guidance": None if interface.guidance is None else list(interface.guidance),
        "split_guidance": interface.split,
        "pipeline": None if plan.pipeline is None else dump_pipeline(plan.pipeline),
        "schedule": {
            "class": plan.schedule["class"],
            "num_inference_steps": plan.schedule["num_inference_steps"],
            "start_step": plan.schedule.get("start_step"),
        },
        "calls": {"total": len(program.calls), "run": len(program.calls_with_runs())},
        "prologue": [run.engine for run in program.runs() if run.call == PROLOGUE],
        "timeline": list(timeline(plan)),
        "instructions": {
            "run": sum(runs.values()),
            "combine": sum(isinstance(instruction, Combine) for instruction in program.instructions),
        },
        "engines": [
            {
                "name": engine.name,
                "file": plan.engine_files[engine.name],
                "runs": runs[engine.name],
                "macs": plan.engine_macs.get(engine.name),
                "blocks": list(engine.blocks),
            }
            for engine in program.engines
        ],
        "passes": [{"name": p.name, "modified": p.modified, "summary": p.summary} for p in plan.passes],
        "tensors": list(tensors(plan)),
        "arena_bytes": memory.arena_bytes,
        "naive_bytes": memory.naive_bytes,
        "constants_bytes": sum(data.nbytes for data in program.constants.values()),
        "weights_bytes": plan.files[WEIGHTS].nbytes if WEIGHTS in plan.files else 0,
        "macs": {**plan.macs, "ideal_speedup": plan.macs["dense"] / plan.macs["kept"]},
    }


def tensors(plan: Plan) -> Iterator[dict[str, Any]]:
    """What lies in the arena, the largest first, and from which denoiser call to which it is alive.

    An input is alive from before the first call (-1), the output to after the last.
    """
    program = plan.program
    call_at = []
    current = PROLOGUE
    for instruction in program.instructions:
        current = max(current, instruction.call) if isinstance(instruction, Run) else current
        call_at.append(current)
    call_at.append(len(program.calls))
    for name, place in sorted(
        plan.memory.allocations.items(), key=lambda item: (-item[1].nbytes, item[1].first, item[0])
    ):
        yield {
            "name": name,
            "bytes": place.nbytes,
            "offset": place.offset,
            "instructions": [place.first, place.last],
            "calls": [PROLOGUE if name in program.inputs else call_at[place.first], call_at[place.last]],
        }


def timeline(plan: Plan) -> Iterator[dict[str, Any]]:
    """The calls in order, neighbours that run the same engines taken together. No engines: all is reused.
    Under split guidance every engine is there once for each half.
    """
    engines: dict[int, list[str]] = {}
    for instruction in plan.program.instructions:
        if isinstance(instruction, Run):
            engines.setdefault(instruction.call, []).append(instruction.engine)
    calls = range(len(plan.program.calls))
    for names, group in groupby(calls, key=lambda call: engines.get(call, [])):
        members = list(group)
        yield {"first": members[0], "last": members[-1], "engines": names}


def as_text(plan: Plan, shapes: Shapes | None = None) -> str:
    """The report, one fact a line."""
    found = facts(plan, shapes)
    parts = (_head(found), _timeline(plan, found), _engines(found), _tensors(found), _passes(found))
    return "\n\n".join("\n".join(part) for part in parts)


def as_times(plan: Plan, times: Sequence[EngineTime]) -> str:
    """Measured times of engines and of the kinds of calls, one a line."""
    return "\n\n".join(["\n".join(_engine_times(times)), "\n".join(_call_times(plan, times))])


def _engine_times(times: Sequence[EngineTime]) -> Iterator[str]:
    yield "time of a run           runs        GMACs      measured      at best*"
    for item in times:
        macs = "" if item.macs is None else f"{item.macs / 1e9:.2f}"
        least = "" if item.least_seconds is None else f"{1e3 * item.least_seconds:.2f} ms"
        yield f"  {item.engine:<20}{item.runs:>6}{macs:>13}{1e3 * item.seconds:>11.2f} ms{least:>14}"
    yield "  * its MACs at the rate of a large matrix product, or of the fastest engine"


def _call_times(plan: Plan, times: Sequence[EngineTime]) -> Iterator[str]:
    """Calls that run the same engines take the same time."""
    seconds = {item.engine: item.seconds for item in times}
    least = {item.engine: item.least_seconds or 0.0 for item in times}
    kinds = Counter(
        tuple(span["engines"]) for span in timeline(plan) for _ in range(span["first"], span["last"] + 1)
    )
    yield "time of a call"
    total = 0.0
    for engines, count in kinds.most_common():
        measured = sum(seconds[name] for name in engines)
        total += count * measured
        listed = _named(list(engines), plan.interface.split)
        label = listed if len(engines) < 4 else f"{len(engines)} engines"
        at_best = sum(least[name] for name in engines)
        figures = f"{1e3 * measured:>11.2f} ms{1e3 * at_best:>11.2f} ms"
        yield f"  {_count(count, 'call'):<12}{label or 'reuse':<24}{figures}"
    total += sum(seconds[run.engine] for run in plan.program.runs() if run.call == PROLOGUE)
    yield f"  an image: {total:.3f} s in engines"


def _head(found: dict[str, Any]) -> Iterator[str]:
    schedule, calls, macs = found["schedule"], found["calls"], found["macs"]
    height, width = found["latents"]
    guidance = _guidance(found["guidance"], found["split_guidance"])
    yield _line("model", f"{found['model']['source']} ({found['model']['class']})")
    yield _line("target", "{backend} on {provider}, {precision}".format(**found["target"]))
    yield _line("size", f"{_count(found['images'], 'image')} of {height} x {width} latents, {guidance}")
    if len(found["shapes"]) > 1:
        yield _line("of shapes", ", ".join(shape["name"] for shape in found["shapes"]))
    yield from _pipeline(found["pipeline"])
    start = "" if schedule["start_step"] is None else f" from step {schedule['start_step']}, with an image"
    steps = _count(schedule["num_inference_steps"], "step")
    yield _line("schedule", f"{schedule['class']}, {steps}{start}")
    yield _line("calls", f"{calls['run']} of {calls['total']} denoiser calls run")
    counts = found["instructions"]
    runs = _count(counts["run"] - len(found["prologue"]), "run")
    once = " and a prologue" if found["prologue"] else ""
    once += " for each half" if once and found["split_guidance"] else ""
    yield _line("program", f"{runs}{once}, {_count(counts['combine'], 'combination')}")
    yield _line("MACs", f"{macs['kept']:,} of {macs['dense']:,}: ideal speedup {macs['ideal_speedup']:.2f}")
    if found["split_guidance"]:
        yield _line("", f"half of them at guidance scale 1: ideal speedup {2 * macs['ideal_speedup']:.2f}")
    yield _line("arena", f"{found['arena_bytes']:,} bytes, {found['naive_bytes']:,} without sharing")
    yield _line("constants", f"{found['constants_bytes']:,} bytes")
    yield _line("weights", f"{found['weights_bytes']:,} bytes")


def _guidance(order: list[str] | None, split: bool) -> str:
    if order is None:
        return "no guidance"
    return f"split guidance, {' then '.join(order)}" if split else f"guidance, batch is {' + '.join(order)}"


def _pipeline(parts: dict[str, Any] | None) -> Iterator[str]:
    """What surrounds the loop, where the bundle has it."""
    if parts is None:
        return
    tokenizer, decoder = parts["tokenizer"], parts["image_decoder"]
    if tokenizer is not None:
        yield _line("prompts", f"{tokenizer['length']} tokens, {parts['text_encoder']['file']}")
    elif "classes" in parts:
        yield _line("prompts", f"{_count(len(parts['classes']), 'name')} of classes")
    (pixels,) = decoder["outputs"]
    _, height, width, _ = pixels["shape"]
    yield _line(
        "pixels", f"{height} x {width}, {decoder['file']}; guidance scale {parts['guidance_scale']:g}"
    )


def _timeline(plan: Plan, found: dict[str, Any]) -> Iterator[str]:
    yield "timeline"
    spans = found["timeline"]
    labels = [_span(span["first"], span["last"]) for span in spans]
    width = max(map(len, (*labels, *(["prologue"] if found["prologue"] else []))))
    split = found["split_guidance"]
    if found["prologue"]:
        yield f"  {'prologue':<{width}}  {'once an image':<18}  {_named(found['prologue'], split)}"
    for label, span in zip(labels, spans, strict=True):
        first, last = (plan.program.calls[span[end]].timestep for end in ("first", "last"))
        at = f"t {first:g}" if span["first"] == span["last"] else f"t {first:g} .. {last:g}"
        yield f"  {label:<{width}}  {at:<18}  {_named(span['engines'], split) or 'reuse'}"


def _named(engines: list[str], split: bool) -> str:
    """Engines in the order of their runs; what both halves run is said once."""
    half = engines[: len(engines) // 2]
    return (
        f"each half: {', '.join(half)}" if split and half and half + half == engines else ", ".join(engines)
    )


def _span(first: int, last: int) -> str:
    return f"call {first}" if first == last else f"calls {first}-{last}"


def _engines(found: dict[str, Any]) -> Iterator[str]:
    yield "engines"
    for engine in found["engines"]:
        yield f"  {engine['name']} ({engine['file']}): {_count(engine['runs'], 'run')}"
        yield f"    {' '.join(engine['blocks'])}"


def _tensors(found: dict[str, Any]) -> Iterator[str]:
    listed = found["tensors"]
    yield f"tensors, the largest of {len(listed)}"
    for tensor in listed[:LARGEST]:
        first, last = tensor["calls"]
        alive = _alive(first, last, found["calls"]["total"])
        yield f"  {tensor['bytes']:>13,} bytes  {alive:<16}  {tensor['name']}"


def _alive(first: int, last: int, total: int) -> str:
    if first == PROLOGUE:
        return "start to end" if last == total else f"start to call {last}"
    return f"call {first} to end" if last == total else _span(first, last)


def _passes(found: dict[str, Any]) -> Iterator[str]:
    yield "passes"
    width = max((len(step["name"]) for step in found["passes"]), default=0)
    for step in found["passes"]:
        yield f"  {step['name']:<{width}}  {step['summary'] if step['modified'] else 'changed nothing'}"


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
