"""A plan as text for people: what runs when, what the passes did, what it costs. Reads the plan only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from dipgo_compile.bundle import WEIGHTS
from dipgo_compile.plan import Plan
from dipgo_compile.program import Combine, Run

LABEL = 12  # characters


def facts(plan: Plan) -> dict[str, Any]:
    """The report as JSON. Sizes are bytes; ``macs`` are multiply-accumulates of one image."""
    program, memory, interface = plan.program, plan.memory, plan.interface
    runs = Counter(run.engine for run in program.runs())
    images, _, height, width = program.specs[interface.latents].shape
    return {
        "model": {key: plan.model[key] for key in ("source", "class", "config_sha256")},
        "target": {"provider": plan.target.provider, "precision": plan.target.precision},
        "images": images,
        "latents": [height, width],
        "guidance": None if interface.guidance is None else list(interface.guidance),
        "schedule": {key: plan.schedule[key] for key in ("class", "num_inference_steps")},
        "calls": {"total": len(program.calls), "run": len(program.calls_with_runs())},
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
                "blocks": list(engine.blocks),
            }
            for engine in program.engines
        ],
        "passes": [{"name": p.name, "modified": p.modified, "summary": p.summary} for p in plan.passes],
        "arena_bytes": memory.arena_bytes,
        "naive_bytes": memory.naive_bytes,
        "constants_bytes": sum(data.nbytes for data in program.constants.values()),
        "weights_bytes": plan.files[WEIGHTS].nbytes if WEIGHTS in plan.files else 0,
        "macs": {**plan.macs, "ideal_speedup": plan.macs["dense"] / plan.macs["kept"]},
    }


def timeline(plan: Plan) -> Iterator[dict[str, Any]]:
    """The calls in order, neighbours that run the same engines taken together. No engines: all is reused."""
    engines: dict[int, list[str]] = {}
    for instruction in plan.program.instructions:
        if isinstance(instruction, Run):
            engines.setdefault(instruction.call, []).append(instruction.engine)
    calls = range(len(plan.program.calls))
    for names, group in groupby(calls, key=lambda call: engines.get(call, [])):
        members = list(group)
        yield {"first": members[0], "last": members[-1], "engines": names}


def as_text(plan: Plan) -> str:
    """The report, one fact a line."""
    found = facts(plan)
    return "\n".join([*_head(found), "", *_timeline(plan, found), "", *_engines(found), "", *_passes(found)])


def _head(found: dict[str, Any]) -> Iterator[str]:
    schedule, calls, macs = found["schedule"], found["calls"], found["macs"]
    height, width = found["latents"]
    guidance = (
        "no guidance" if found["guidance"] is None else f"guidance, batch is {' + '.join(found['guidance'])}"
    )
    yield _line("model", f"{found['model']['source']} ({found['model']['class']})")
    yield _line("target", f"{found['target']['provider']}, {found['target']['precision']}")
    yield _line("size", f"{_count(found['images'], 'image')} of {height} x {width} latents, {guidance}")
    yield _line("schedule", f"{schedule['class']}, {_count(schedule['num_inference_steps'], 'step')}")
    yield _line("calls", f"{calls['run']} of {calls['total']} denoiser calls run")
    counts = found["instructions"]
    yield _line("program", f"{_count(counts['run'], 'run')}, {_count(counts['combine'], 'combination')}")
    yield _line("MACs", f"{macs['kept']:,} of {macs['dense']:,}: ideal speedup {macs['ideal_speedup']:.2f}")
    yield _line("arena", f"{found['arena_bytes']:,} bytes, {found['naive_bytes']:,} without sharing")
    yield _line("constants", f"{found['constants_bytes']:,} bytes")
    yield _line("weights", f"{found['weights_bytes']:,} bytes")


def _timeline(plan: Plan, found: dict[str, Any]) -> Iterator[str]:
    yield "timeline"
    spans = found["timeline"]
    labels = [_span(span["first"], span["last"]) for span in spans]
    width = max(map(len, labels))
    for label, span in zip(labels, spans, strict=True):
        first, last = (plan.program.calls[span[end]].timestep for end in ("first", "last"))
        at = f"t {first:g}" if span["first"] == span["last"] else f"t {first:g} .. {last:g}"
        yield f"  {label:<{width}}  {at:<18}  {', '.join(span['engines']) or 'reuse'}"


def _span(first: int, last: int) -> str:
    return f"call {first}" if first == last else f"calls {first}-{last}"


def _engines(found: dict[str, Any]) -> Iterator[str]:
    yield "engines"
    for engine in found["engines"]:
        yield f"  {engine['name']} ({engine['file']}): {_count(engine['runs'], 'run')}"
        yield f"    {' '.join(engine['blocks'])}"


def _passes(found: dict[str, Any]) -> Iterator[str]:
    yield "passes"
    width = max((len(step["name"]) for step in found["passes"]), default=0)
    for step in found["passes"]:
        yield f"  {step['name']:<{width}}  {step['summary'] if step['modified'] else 'changed nothing'}"


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
