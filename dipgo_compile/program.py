"""The intermediate representation: a denoising loop, unrolled, in static single assignment form.

A block that a mask reuses is not run: its consumers read the older value, or its input plus what it last
added to it. Two instructions are all there is: ``Run`` computes part of the denoiser, ``Combine`` is a linear
combination (scheduler step, guidance, input scaling, residual). Everything here is immutable; a pass returns
a new ``Program``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.generic]

PROLOGUE = -1  # the ``call`` of a run that comes before all calls and belongs to none


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Element type (a numpy dtype name, such as ``float32``) and static shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def repeated(self, times: int) -> TensorSpec:
        """So many of them, one behind the other along the batch, which is the leading axis."""
        return replace(self, shape=(*(times * size for size in self.shape[:1]), *self.shape[1:]))


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the denoiser's graph that is computed as a whole.

    ``scope`` is the module scope a mask may name; it is None for glue: the nodes between blocks (time
    embedding, ``conv_in``, ``conv_out``, skip concatenations), which no mask prunes. ``inputs`` and
    ``outputs`` are tensor names. ``adds_to`` is the input that a residual is relative to: of those that
    depend on the sample, the only one of the shape of the block's only output. None when there is no such
    input.
    """

    name: str
    scope: str | None
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    adds_to: str | None = None


@dataclass(frozen=True)
class BlockGraph:
    """One denoiser call: blocks in topological order, and the tensors between them."""

    blocks: tuple[Block, ...]
    tensors: Mapping[str, TensorSpec]
    sample: str
    timestep: str
    conditions: tuple[str, ...]
    output: str

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that a mask may name, in topological order."""
        return tuple(block.scope for block in self.blocks if block.scope is not None)

    def consumers(self, reuse: str = "output") -> dict[str, frozenset[str | None]]:
        """For each scope, the scopes that read its outputs, directly or through glue; None stands for the
        output.

        Under ``residual`` reuse a block hands its input on even when it is reused, so what reads it is
        reached through it, too. The gate cascade (paper, section 3.2) walks these edges: a block none of
        whose consumers is computed need not be computed.
        """
        readers: dict[str, list[Block]] = {}
        for block in self.blocks:
            for name in block.inputs:
                readers.setdefault(name, []).append(block)
        reached: dict[
            str, frozenset[str | None]
        ] = {}  # by block name; later blocks are ready before earlier ones
        for block in reversed(self.blocks):
            found: set[str | None] = {None} if self.output in block.outputs else set()
            for name in block.outputs:
                for reader in readers.get(name, []):
                    if reader.scope is not None:
                        found.add(reader.scope)
                    if reader.scope is None or (reuse == "residual" and reader.adds_to == name):
                        found |= reached[reader.name]
            reached[block.name] = frozenset(found)
        return {block.scope: reached[block.name] for block in self.blocks if block.scope is not None}


@dataclass(frozen=True, slots=True)
class Engine:
    """What one backend session computes: the part of the denoiser between ``inputs`` and ``outputs``.

    ``blocks`` names the blocks inside, for people; the tensors define the engine.
    """

    name: str
    blocks: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """``constant + guidance * g``, where ``g`` is the guidance scale, known at run time only."""

    constant: float
    guidance: float = 0.0

    def __add__(self, other: Coefficient) -> Coefficient:
        return Coefficient(self.constant + other.constant, self.guidance + other.guidance)

    def __mul__(self, other: Coefficient) -> Coefficient:
        if self.guidance and other.guidance:
            raise ValueError("the product of two guided coefficients is not linear in the guidance scale")
        return Coefficient(
            self.constant * other.constant,
            self.constant * other.guidance + self.guidance * other.constant,
        )

    def at(self, guidance_scale: float) -> float:
        return self.constant + self.guidance * guidance_scale


@dataclass(frozen=True, slots=True)
class Slice:
    """``start:stop`` along one axis."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Term:
    """A coefficient times a value, or times a view of it."""

    value: str
    coefficient: Coefficient
    view: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Compute an engine. ``inputs`` and ``outputs`` are values in the order of the engine's tensors; an
    output that nobody reads is None. ``call`` is the denoiser call it belongs to, or ``PROLOGUE``.
    ``half`` is what it computes of a call under split guidance, ``uncond`` or ``cond``; None: the whole call.
    """

    engine: str
    call: int
    inputs: tuple[str, ...]
    outputs: tuple[str | None, ...]
    half: str | None = None


@dataclass(frozen=True, slots=True)
class Combine:
    """``output = sum(coefficient * view(value))``.

    The output's leading axis may be a multiple of the terms': the sum is then repeated (classifier-free
    guidance feeds the same latents twice).
    """

    terms: tuple[Term, ...]
    output: str


UNITS = (Coefficient(1.0), Coefficient(-1.0))


def is_signed_sum(combine: Combine) -> bool:
    """Whether all coefficients are 1 or -1, as those of residuals are: products with them are exact."""
    return all(term.coefficient in UNITS for term in combine.terms)


Instruction: TypeAlias = Run | Combine


def reads(instruction: Instruction) -> tuple[str, ...]:
    """The values that an instruction reads."""
    if isinstance(instruction, Run):
        return instruction.inputs
    return tuple(term.value for term in instruction.terms)


def writes(instruction: Instruction) -> tuple[str, ...]:
    """The values that an instruction defines."""
    if isinstance(instruction, Run):
        return tuple(name for name in instruction.outputs if name is not None)
    return (instruction.output,)


@dataclass(frozen=True, slots=True)
class Call:
    """One denoiser call as a host scheduler sees it.

    ``sample`` is the value the denoiser reads (None when this call doesn't read it). ``noise_preds`` are what
    it answers with, and an earlier call may have computed: one value, or under split guidance one for each
    half, in order; both halves read the same sample.
    """

    timestep: float
    sample: str | None
    noise_preds: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """The whole denoising loop.

    ``inputs`` are given per image (initial noise, conditions, the scheduler's noise draws), ``constants`` are
    known at build time, everything else is defined by exactly one instruction. ``output`` is the final
    latents.
    """

    engines: tuple[Engine, ...]
    specs: Mapping[str, TensorSpec]
    inputs: tuple[str, ...]
    constants: Mapping[str, Array] = field(repr=False)
    instructions: tuple[Instruction, ...]
    calls: tuple[Call, ...]
    output: str

    def engine(self, name: str) -> Engine:
        return next(engine for engine in self.engines if engine.name == name)

    def runs(self) -> Iterator[Run]:
        return (instruction for instruction in self.instructions if isinstance(instruction, Run))

    def prologue_engines(self) -> frozenset[str]:
        """Names of the engines that run once an image, before its first call, and never again."""
        runs = tuple(self.runs())
        return frozenset(run.engine for run in runs) - {run.engine for run in runs if run.call != PROLOGUE}

    def calls_with_runs(self) -> tuple[int, ...]:
        """Indices of the calls in which anything of the denoiser is computed."""
        return tuple(sorted({run.call for run in self.runs()} - {PROLOGUE}))

    def call_values(self) -> set[str]:
        """What denoiser calls read and answer with. The combinations among it are the calls', between their
        runs; all others, those that define samples included, are the scheduler's: a host with a scheduler of
        its own supplies what they would have computed.
        """
        samples = {call.sample for call in self.calls}
        needed = {name for call in self.calls for name in call.noise_preds}
        for instruction in reversed(self.instructions):
            if isinstance(instruction, Run) or (
                instruction.output in needed and instruction.output not in samples
            ):
                needed.update(reads(instruction))
        return needed

    def with_instructions(self, instructions: tuple[Instruction, ...]) -> Program:
        """The same program with other instructions; whatever they no longer mention is dropped."""
        used = {name for instruction in instructions for name in (*reads(instruction), *writes(instruction))}
        used |= {*self.inputs, self.output}
        running = {instruction.engine for instruction in instructions if isinstance(instruction, Run)}
        return replace(
            self,
            engines=tuple(engine for engine in self.engines if engine.name in running),
            specs={name: spec for name, spec in self.specs.items() if name in used},
            constants={name: data for name, data in self.constants.items() if name in used},
            instructions=instructions,
        )


@dataclass(frozen=True, slots=True)
class Allocation:
    """Where a value lives in the arena, and from which instruction to which (both inclusive) it is live."""

    offset: int
    nbytes: int
    first: int
    last: int


@dataclass(frozen=True)
class MemoryPlan:
    """An offset in one arena for every value that is not a constant. ``naive_bytes``: the arena without any
    sharing.
    """

    allocations: Mapping[str, Allocation]
    arena_bytes: int
    naive_bytes: int
