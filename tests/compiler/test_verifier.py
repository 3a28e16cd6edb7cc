"""The verifier accepts what the compiler makes, and refuses each way of breaking it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from toy_denoiser import toy_program

from dipgo_compile.errors import CompileError
from dipgo_compile.passes.plan_memory import plan_memory
from dipgo_compile.program import (
    PROLOGUE,
    Call,
    Coefficient,
    Combine,
    MemoryPlan,
    Program,
    Run,
    Slice,
    TensorSpec,
    Term,
    writes,
)
from dipgo_compile.verifier import verify_memory, verify_program

PROGRAM = toy_program(2)


def edited(program: Program, index: int, instruction) -> Program:
    listed = list(program.instructions)
    listed[index] = instruction
    return replace(program, instructions=tuple(listed))


def first(kind) -> int:
    return next(i for i, instruction in enumerate(PROGRAM.instructions) if isinstance(instruction, kind))


RUN, COMBINE = first(Run), first(Combine)
A_RUN, A_COMBINE = PROGRAM.instructions[RUN], PROGRAM.instructions[COMBINE]


def test_accepts_what_unroll_makes():
    verify_program(PROGRAM)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            edited(PROGRAM, RUN, replace(A_RUN, inputs=("nowhere",) * len(A_RUN.inputs))),
            "before it is defined",
        ),
        (edited(PROGRAM, RUN, replace(A_RUN, inputs=())), "does not fit the engine"),
        (edited(PROGRAM, RUN, replace(A_RUN, engine="other")), "no engine"),
        (edited(PROGRAM, RUN, replace(A_RUN, call=7)), "no call 7"),
        (replace(PROGRAM, instructions=PROGRAM.instructions[::-1]), "before it is defined"),
        (replace(PROGRAM, instructions=(*PROGRAM.instructions, A_COMBINE)), "defined twice"),
        (replace(PROGRAM, engines=PROGRAM.engines * 2), "one name"),
        (replace(PROGRAM, output="nothing"), "not defined"),
        (
            replace(PROGRAM, specs={k: v for k, v in PROGRAM.specs.items() if k != A_COMBINE.output}),
            "no spec",
        ),
        (replace(PROGRAM, constants={k: np.zeros(9, "f") for k in PROGRAM.constants}), "its spec says"),
        (
            replace(PROGRAM, calls=(Call(200.0, None, ("noise_pred@1",)), PROGRAM.calls[1])),
            "not computed by then",
        ),
        (replace(PROGRAM, calls=(replace(PROGRAM.calls[0], sample="x"), PROGRAM.calls[1])), "not defined"),
    ],
)
def test_refuses_a_broken_program(broken, message):
    with pytest.raises(CompileError, match=message):
        verify_program(broken)


def test_a_prologue_comes_first_and_reads_no_value_of_a_call():
    engine = replace(PROGRAM.engine(A_RUN.engine), name="prologue")
    outputs = tuple(f"{name}@prologue" for name in engine.outputs)
    specs = {hoisted: PROGRAM.specs[name] for hoisted, name in zip(outputs, A_RUN.outputs, strict=True)}
    program = replace(PROGRAM, engines=(*PROGRAM.engines, engine), specs={**PROGRAM.specs, **specs})

    def with_run(index: int, inputs: tuple[str, ...]) -> Program:
        run = Run("prologue", PROLOGUE, inputs, outputs)
        listed = list(PROGRAM.instructions)
        return replace(program, instructions=(*listed[:index], run, *listed[index:]))

    verify_program(with_run(0, ("text",) * len(engine.inputs)))
    with pytest.raises(CompileError, match="before it is defined"):
        verify_program(with_run(0, A_RUN.inputs))
    with pytest.raises(CompileError, match="does not come first"):
        verify_program(with_run(RUN, A_RUN.inputs))


@pytest.mark.parametrize(
    ("value", "allowed"),
    [("sample@0", True), ("merged@0", True), ("sample@1", False), ("merged@1", False), ("latents@0", False)],
)
def test_a_noise_prediction_may_be_a_sum_of_what_a_host_has_by_then(value, allowed):
    """Call 0 answers with a sum of ``value``."""
    at = next(index for index, instruction in enumerate(PROGRAM.instructions) if value in writes(instruction))
    combine = Combine((Term(value, Coefficient(1.0)),), "sum")
    listed = (*PROGRAM.instructions[: at + 1], combine, *PROGRAM.instructions[at + 1 :])
    specs = {**PROGRAM.specs, "sum": PROGRAM.specs[value]}
    calls = (replace(PROGRAM.calls[0], noise_preds=("sum",)), PROGRAM.calls[1])
    program = replace(PROGRAM, instructions=listed, specs=specs, calls=calls)
    with nullcontext() if allowed else pytest.raises(CompileError, match="not computed by then"):
        verify_program(program)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_floats_of_every_size_are_combined(dtype):
    specs = {**PROGRAM.specs, **dict.fromkeys(("one", "sum"), TensorSpec(dtype, (2, 3)))}
    combine = Combine((Term("one", Coefficient(1.0)), Term("one", Coefficient(-1.0))), "sum")
    program = replace(
        PROGRAM, specs=specs, inputs=(*PROGRAM.inputs, "one"), instructions=(*PROGRAM.instructions, combine)
    )
    with pytest.raises(CompileError, match="int64, which is") if dtype == "int64" else nullcontext():
        verify_program(program)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([Term("latents", Coefficient(1.0), (Slice(0, 0, 9),))], "lies outside"),
        ([Term("latents", Coefficient(1.0), (Slice(4, 0, 1),))], "lies outside"),
        ([Term("latents", Coefficient(float("nan")))], "not finite"),
        ([Term("latents", Coefficient(1.0)), Term("text", Coefficient(1.0))], "differ in shape"),
        ([Term("latents", Coefficient(1.0), (Slice(2, 0, 1),))], "cannot fill"),
    ],
)
def test_refuses_a_broken_combination(terms, message):
    with pytest.raises(CompileError, match=message):
        verify_program(edited(PROGRAM, COMBINE, Combine(tuple(terms), A_COMBINE.output)))


@st.composite
def programs(draw) -> Program:
    """Chains of combinations of random sizes: each reads some earlier values of its own shape."""
    sizes = draw(st.lists(st.integers(1, 300), min_size=1, max_size=4))
    inputs = tuple(f"in{i}" for i in range(len(sizes)))
    specs = {name: TensorSpec("float32", (size,)) for name, size in zip(inputs, sizes, strict=True)}
    instructions: list[Combine] = []
    for number in range(draw(st.integers(1, 14))):
        source = draw(st.sampled_from(sorted(specs)))
        alike = sorted(name for name in specs if specs[name] == specs[source])
        read = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=3, unique=True))
        specs[f"v{number}"] = specs[source]
        instructions.append(Combine(tuple(Term(name, Coefficient(1.0)) for name in read), f"v{number}"))
    return Program((), specs, inputs, {}, tuple(instructions), (), instructions[-1].output)


@given(programs())
def test_the_planner_satisfies_the_verifier_within_the_naive_size(program):
    verify_program(program)
    memory = plan_memory(program)
    verify_memory(program, memory)
    assert memory.arena_bytes <= memory.naive_bytes


@given(programs(), st.data())
def test_moving_a_value_onto_a_live_one_is_found(program, data):
    memory = plan_memory(program)
    name = data.draw(st.sampled_from(sorted(memory.allocations)))
    other = data.draw(st.sampled_from(sorted(memory.allocations)))
    mine, theirs = memory.allocations[name], memory.allocations[other]
    assume(name != other and mine.first <= theirs.last and theirs.first <= mine.last)
    moved = dict(memory.allocations) | {name: replace(mine, offset=theirs.offset)}
    roomy = MemoryPlan(moved, memory.arena_bytes + memory.naive_bytes, memory.naive_bytes)
    with pytest.raises(CompileError, match="overlap"):
        verify_memory(program, roomy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 1 << 40}, "outside the arena"),
        ({"offset": 32}, "unaligned"),
        ({"nbytes": 4}, "bytes of room"),
        ({"last": 0, "first": 0}, "is needed from"),
    ],
)
def test_refuses_a_broken_memory_plan(change, message):
    memory = plan_memory(PROGRAM)
    changed = dict(memory.allocations) | {
        PROGRAM.output: replace(memory.allocations[PROGRAM.output], **change)
    }
    with pytest.raises(CompileError, match=message):
        verify_memory(PROGRAM, replace(memory, allocations=changed))


def test_refuses_a_value_without_a_place():
    memory = plan_memory(PROGRAM)
    fewer = {name: place for name, place in memory.allocations.items() if name != PROGRAM.output}
    with pytest.raises(CompileError, match="without a place"):
        verify_memory(PROGRAM, replace(memory, allocations=fewer))
