"""Checks of a program and of a memory plan.

Written apart from the passes and from the planner, and sharing no code with them: a mistake there should not
hide one here. The runtime runs the same checks on every bundle it opens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dipgo_compile.errors import CompileError
from dipgo_compile.plan import Interface, PipelineParts, Plan
from dipgo_compile.program import PROLOGUE, Call, Combine, MemoryPlan, Program, Run, TensorSpec, Term
from dipgo_compile.shapes import Shape


def verify_program(program: Program) -> None:
    """Raise CompileError unless the program is well formed.

    1. Every value is defined once, before it is read, and has a spec; constants match theirs.
    2. Every run fits its engine.
    3. Views lie inside their values; a combination's terms are floats of one dtype and shape, which
       its output repeats.
    4. The runs of the prologue come first, so that they read nothing that a call computes.
    5. A call's sample and noise predictions exist; the latter are there when the call ends, made of samples
       and of what runs gave until then.
    """
    engines = {engine.name: engine for engine in program.engines}
    if len(engines) != len(program.engines):
        raise CompileError("two engines have one name")
    defined = {*program.inputs, *program.constants}
    for name, data in program.constants.items():
        spec = program.specs.get(name)
        if spec is None or (spec.dtype, spec.shape) != (data.dtype.name, data.shape):
            raise CompileError(
                f"the constant {name!r} is {data.dtype.name}{data.shape}, its spec says {spec}"
            )
    never = len(program.calls)
    samples = {call.sample: index for index, call in reversed(list(enumerate(program.calls))) if call.sample}
    call_of = dict(samples)  # from which call on a host has a value
    in_prologue = True
    for index, instruction in enumerate(program.instructions):
        where = f"instruction {index}"
        in_prologue = in_prologue and isinstance(instruction, Run) and instruction.call == PROLOGUE
        if isinstance(instruction, Run):
            engine = engines.get(instruction.engine)
            if engine is None:
                raise CompileError(f"no engine {instruction.engine!r}", where=where, available=engines)
            if (len(instruction.inputs), len(instruction.outputs)) != (
                len(engine.inputs),
                len(engine.outputs),
            ):
                raise CompileError(f"the run does not fit the engine {engine.name!r}", where=where)
            if instruction.call == PROLOGUE:
                if not in_prologue:
                    raise CompileError("a run of the prologue does not come first", where=where)
            elif not 0 <= instruction.call < len(program.calls):
                raise CompileError(f"there is no call {instruction.call}", where=where)
            read, written = (
                set(instruction.inputs),
                [name for name in instruction.outputs if name is not None],
            )
            call_of |= dict.fromkeys(written, instruction.call)
        else:
            read, written = {term.value for term in instruction.terms}, [instruction.output]
            if instruction.output not in samples:
                call_of[instruction.output] = max((call_of.get(name, never) for name in read), default=never)
        for name in sorted(read - defined):
            raise CompileError(f"{name!r} is read before it is defined", where=where)
        for name in written:
            if name in defined:
                raise CompileError(f"{name!r} is defined twice", where=where)
            if name not in program.specs:
                raise CompileError(f"{name!r} has no spec", where=where)
            defined.add(name)
        if isinstance(instruction, Combine):
            _verify_combine(instruction, program.specs, where)
    for name in (*program.inputs, program.output):
        if name not in defined or name not in program.specs:
            raise CompileError(f"the program's input or output {name!r} is not defined")
    for index, call in enumerate(program.calls):
        for noise_pred in call.noise_preds:
            if call_of.get(noise_pred, never) > index:
                raise CompileError(
                    f"the noise prediction {noise_pred!r} of call {index} is not computed by then"
                )
        if call.sample is not None and call.sample not in defined:
            raise CompileError(f"the sample {call.sample!r} of call {index} is not defined")


def verify_interface(program: Program, interface: Interface) -> None:
    """Raise CompileError unless the outside can give and take what the program reads and answers with.

    1. Every input is given once: as the latents, those of an image, a condition (or half of one) or a draw.
    2. Latents, draws and the output are float32 and have one shape, which begins with the number of images.
    3. The samples of all calls have one spec, and so have the noise predictions. Those of a call have the
       batch of its sample together, or a multiple of it.
    4. Under split guidance every run is of a half, a call answers with a prediction for each, and the halves
       of a condition have one spec, with a batch. Otherwise runs have no half, and calls one prediction.
    """
    image = () if interface.image_latents is None else (interface.image_latents,)
    conditions = [interface.inputs_of(name) for name in interface.conditions]
    given = [interface.latents, *image, *(name for halves in conditions for name in halves)]
    given += interface.draws
    if sorted(given) != sorted(program.inputs) or len(set(given)) != len(given):
        raise CompileError(
            f"the interface gives {', '.join(given)}, the program reads {', '.join(program.inputs)}"
        )
    latents = program.specs[interface.latents]
    for name in (interface.latents, *interface.draws, program.output):
        spec = program.specs[name]
        if (spec.dtype, spec.shape) != ("float32", latents.shape) or not spec.shape:
            raise CompileError(f"{name!r} is {spec.dtype}{spec.shape}, not float32{latents.shape}")
    samples = [call.sample for call in program.calls if call.sample is not None]
    for names in (samples, [name for call in program.calls for name in call.noise_preds]):
        if len({(program.specs[name].dtype, program.specs[name].shape) for name in names}) > 1:
            raise CompileError(
                f"{', '.join(dict.fromkeys(names))} of different calls differ in shape or dtype"
            )
    for call in program.calls:
        _verify_batch(program, call)
    _verify_halves(program, interface.guidance if interface.split else None, conditions)


def _verify_batch(program: Program, call: Call) -> None:
    if call.sample is None:
        return
    sample, noise_pred = (program.specs[name].shape for name in (call.sample, call.noise_preds[0]))
    if not sample or not noise_pred or len(call.noise_preds) * noise_pred[0] % sample[0]:
        raise CompileError(
            f"{call.noise_preds[0]!r} {noise_pred} has another batch than its sample {call.sample!r} {sample}"
        )


def _verify_halves(
    program: Program, order: tuple[str, str] | None, conditions: Sequence[tuple[str, ...]]
) -> None:
    known = {None} if order is None else {*order}
    for index, instruction in enumerate(program.instructions):
        if isinstance(instruction, Run) and instruction.half not in known:
            raise CompileError(f"a run of the half {instruction.half}", where=f"instruction {index}")
    for index, call in enumerate(program.calls):
        if len(call.noise_preds) != len(known):
            raise CompileError(f"call {index} answers with {len(call.noise_preds)} noise predictions")
    for halves in conditions:
        specs = {(program.specs[half].dtype, program.specs[half].shape) for half in halves}
        if len(specs) > 1 or (order is not None and not program.specs[halves[0]].shape):
            raise CompileError(f"{' and '.join(halves)} are not of one shape with a batch")


def verify_memory(program: Program, memory: MemoryPlan) -> None:
    """Raise CompileError unless every value has room of its own for as long as it is needed, and the arena is
    no larger than that takes.
    """
    needed = {name: [0, 0] for name in program.inputs}
    for index, instruction in enumerate(program.instructions):
        if isinstance(instruction, Run):
            read, written = (
                instruction.inputs,
                tuple(name for name in instruction.outputs if name is not None),
            )
        else:
            read, written = tuple(term.value for term in instruction.terms), (instruction.output,)
        for name in written:
            needed[name] = [index, index]
        for name in read:
            if name not in program.constants:
                needed[name][1] = index
    needed[program.output][1] = len(program.instructions)
    if needed.keys() != memory.allocations.keys():
        odd = sorted(needed.keys() ^ memory.allocations.keys())
        raise CompileError(f"values without a place, or places without a value: {', '.join(odd[:5])}")
    for name, (first, last) in needed.items():
        place = memory.allocations[name]
        if place.nbytes != program.specs[name].nbytes:
            raise CompileError(
                f"{name!r} has {place.nbytes} bytes of room and needs {program.specs[name].nbytes}"
            )
        if place.offset < 0 or place.offset % 64 or place.offset + place.nbytes > memory.arena_bytes:
            raise CompileError(f"{name!r} lies outside the arena, or unaligned, at {place.offset}")
        if (place.first, place.last) != (first, last):
            raise CompileError(
                f"{name!r} is needed from {first} to {last}, planned from {place.first} to {place.last}"
            )
    _verify_disjoint(memory)
    end = max((place.offset + place.nbytes for place in memory.allocations.values()), default=0)
    if memory.arena_bytes > -(-end // 64) * 64:
        raise CompileError(f"the arena has {memory.arena_bytes} bytes, and values in the first {end} only")


def verify_shapes(first: Plan, shape: Shape, other: Plan) -> None:
    """Raise CompileError unless ``other`` can stand beside the plan of plan.json, as its plan for ``shape``.

    1. It is for that shape, and knows of no shapes itself.
    2. Its values fit into an arena made for the first.
    3. It is the same loop: model, schedule and interface are the first's, and so are the dtypes and numbers
       of axes of what is given; what surrounds the loop, if anything does, is told the same things.
    """
    if other.shape != shape or other.shapes:
        raise CompileError(f"the plan for {shape} is one for {other.shape}, or has further plans")
    if other.memory.arena_bytes > first.memory.arena_bytes:
        raise CompileError(
            f"the plan for {shape} takes an arena of {other.memory.arena_bytes} bytes; the bundle's is made "
            f"for {first.memory.arena_bytes}"
        )
    for what in ("model", "schedule", "interface"):
        if getattr(other, what) != getattr(first, what):
            raise CompileError(f"the plan for {shape} has another {what} than plan.json")
    if len(other.program.calls) != len(first.program.calls):
        raise CompileError(f"the plan for {shape} has {len(other.program.calls)} calls")
    for name in first.program.inputs:
        here, there = first.program.specs[name], other.program.specs[name]
        if (there.dtype, len(there.shape)) != (here.dtype, len(here.shape)):
            raise CompileError(f"{name!r} of the plan for {shape} has another dtype or number of axes")
    if _around(other.pipeline) != _around(first.pipeline):
        raise CompileError(f"the plan for {shape} has another pipeline than plan.json")


def _around(parts: PipelineParts | None) -> object:
    """What a pipeline is, whatever the sizes."""
    if parts is None:
        return None
    return parts.text_encoder is None, parts.tokenizer, parts.guidance_scale, parts.classes


def _verify_disjoint(memory: MemoryPlan) -> None:
    """No two values that are alive at the same instruction share a byte."""
    opening = sorted(memory.allocations.items(), key=lambda item: item[1].first)
    alive: list[str] = []
    for name, place in opening:
        alive = [other for other in alive if memory.allocations[other].last >= place.first]
        for other in alive:
            theirs = memory.allocations[other]
            if place.offset < theirs.offset + theirs.nbytes and theirs.offset < place.offset + place.nbytes:
                raise CompileError(f"{name!r} and {other!r} are alive together and overlap in the arena")
        alive.append(name)


def _verify_combine(combine: Combine, specs: Mapping[str, TensorSpec], where: str) -> None:
    output = specs[combine.output]
    shapes = {_view_shape(term, specs[term.value], where) for term in combine.terms}
    dtypes = {specs[term.value].dtype for term in combine.terms} | {output.dtype}
    if len(shapes) != 1 or len(dtypes) != 1:
        raise CompileError(f"the terms of {combine.output!r} differ in shape or dtype", where=where)
    if output.dtype not in ("float16", "float32", "float64"):
        raise CompileError(f"{combine.output!r} is {output.dtype}, which is not combined", where=where)
    shape = shapes.pop()
    if not (shape and output.shape and all(shape)):
        raise CompileError(f"the terms of {combine.output!r} have no axis to combine along", where=where)
    if shape[1:] != output.shape[1:] or output.shape[0] % shape[0]:
        raise CompileError(
            f"terms of shape {shape} cannot fill {combine.output!r} {output.shape}", where=where
        )
    for term in combine.terms:
        if not (math.isfinite(term.coefficient.constant) and math.isfinite(term.coefficient.guidance)):
            raise CompileError(f"a coefficient of {combine.output!r} is not finite", where=where)


def _view_shape(term: Term, spec: TensorSpec, where: str) -> tuple[int, ...]:
    shape = list(spec.shape)
    for part in term.view:
        if not (0 <= part.axis < len(shape) and 0 <= part.start < part.stop <= shape[part.axis]):
            raise CompileError(f"the view {part} lies outside {term.value!r} {spec.shape}", where=where)
        shape[part.axis] = part.stop - part.start
    return tuple(shape)
