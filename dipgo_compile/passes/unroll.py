"""unroll: T denoiser calls of N blocks and the scheduler's steps, as one straight program.

One call with guidance scale g reads like this (``@c`` is the call):

    sample@c     = input_scale * latents@c, repeated for the halves of a guided batch that share nothing
    ...          = run of every block
    noise@c      = (1 - g) * noise_pred@c[uncond] + g * noise_pred@c[cond]
    latents@c+1  = the scheduler's linear combination of samples, noise predictions and noise draws

latents@0 is the initial noise, scaled, or where a loop begins with an image its latents with noise added.

Under split guidance the graph is one half's, and a call runs it twice, on the same sample:

    sample@c     = input_scale * latents@c
    ...          = run of every block, on the conditions of one half
    ...          = run of every block, on those of the other
    noise@c      = (1 - g) * noise_pred@c.uncond + g * noise_pred@c.cond

The engines are the same, the values are not: each half has its own, so that what a half reuses is its own,
and so that nothing of ``uncond`` is read where ``g`` is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dipgo_compile.plan import half_of
from dipgo_compile.program import (
    Array,
    BlockGraph,
    Call,
    Coefficient,
    Combine,
    Engine,
    Instruction,
    Program,
    Run,
    Slice,
    TensorSpec,
    Term,
)
from dipgo_compile.schedules.table import Schedule

LATENTS = "latents"
IMAGE = "image_latents"
_DRAW = "draw"


def is_draw(value: str) -> bool:
    """Whether a program input is one of the scheduler's noise draws."""
    return value.startswith(f"{_DRAW}@")


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance as two halves of one batch, or with ``split`` as two runs of half the batch.
    ``order``: which half is which, as the pipeline stacks them.
    """

    order: tuple[str, str]
    split: bool = False


def unroll(graph: BlockGraph, schedule: Schedule, guidance: Guidance | None) -> Program:
    """The program that computes every block at every call. The batch of ``graph`` is doubled under guidance
    that isn't split.
    """
    return _Unroller(graph, schedule, guidance).program()


class _Unroller:
    def __init__(self, graph: BlockGraph, schedule: Schedule, guidance: Guidance | None) -> None:
        self.graph, self.schedule, self.guidance = graph, schedule, guidance
        self.halves: tuple[str | None, ...] = guidance.order if guidance and guidance.split else (None,)
        samples = graph.tensors[graph.output].shape[0]
        self.images = samples // 2 if guidance and not guidance.split else samples
        self.latents = TensorSpec("float32", (self.images, *graph.tensors[graph.sample].shape[1:]))
        self.specs: dict[str, TensorSpec] = {}
        self.constants: dict[str, Array] = {}
        self.instructions: list[Instruction] = []
        self.calls: list[Call] = []

    def program(self) -> Program:
        graph, schedule = self.graph, self.schedule
        conditions = {
            given_to(half, name): graph.tensors[name] for name in graph.conditions for half in self.halves
        }
        self.specs |= conditions
        self.specs[LATENTS] = self.latents
        self._combine("latents@0", self._first_terms(), self.latents)
        for index in range(len(schedule.steps)):
            self._call(index)
        draws = tuple(name for name in self.specs if is_draw(name))
        return Program(
            engines=tuple(
                Engine(block.name, (block.name,), block.inputs, block.outputs) for block in graph.blocks
            ),
            specs=self.specs,
            inputs=(LATENTS, *((IMAGE,) if schedule.start else ()), *conditions, *draws),
            constants=self.constants,
            instructions=tuple(self.instructions),
            calls=tuple(self.calls),
            output=f"latents@{len(schedule.steps)}",
        )

    def _first_terms(self) -> list[Term]:
        start = self.schedule.start
        if start is None:
            return [Term(LATENTS, Coefficient(self.schedule.init_noise_sigma))]
        self.specs[IMAGE] = self.latents
        return [Term(IMAGE, Coefficient(start.image)), Term(LATENTS, Coefficient(start.noise))]

    def _call(self, index: int) -> None:
        graph, step = self.graph, self.schedule.steps[index]
        sample = f"{graph.sample}@{index}"
        self._combine(
            sample, [Term(f"latents@{index}", Coefficient(step.input_scale))], graph.tensors[graph.sample]
        )
        timestep = f"{graph.timestep}@t{step.timestep:.10g}"
        spec = graph.tensors[graph.timestep]
        self.specs[timestep] = spec
        self.constants[timestep] = np.full(spec.shape, step.timestep, dtype=spec.dtype)
        outer = {graph.sample: sample, graph.timestep: timestep}
        noise_preds = tuple(self._half(index, half, outer) for half in self.halves)
        self.calls.append(Call(step.timestep, sample, noise_preds))
        self._combine(f"noise@{index}", self._guided(noise_preds), self.latents)
        self._combine(f"latents@{index + 1}", self._step_terms(index), self.latents)

    def _half(self, call: int, half: str | None, outer: Mapping[str, str]) -> str:
        """Runs every block for a half of a call, or for the whole call; what it answers with."""
        graph = self.graph
        values = {**outer, **{name: given_to(half, name) for name in graph.conditions}}
        for block in graph.blocks:
            inputs = tuple(values[name] for name in block.inputs)
            outputs = tuple(in_half(f"{name}@{call}", half) for name in block.outputs)
            values |= dict(zip(block.outputs, outputs, strict=True))
            self.specs |= {values[name]: graph.tensors[name] for name in block.outputs}
            self.instructions.append(Run(block.name, call, inputs, outputs, half))
        return values[graph.output]

    def _guided(self, noise_preds: tuple[str, ...]) -> list[Term]:
        """(1 - g) * uncond + g * cond, of the channels that predict noise (others, as DiT's, predict
        variance).
        """
        spec, channels = self.graph.tensors[self.graph.output], self.latents.shape[1]
        view = () if spec.shape[1] == channels else (Slice(1, 0, channels),)
        if self.guidance is None:
            return [Term(noise_preds[0], Coefficient(1.0), view)]
        weights = {"uncond": Coefficient(1.0, -1.0), "cond": Coefficient(0.0, 1.0)}
        if self.guidance.split:
            pairs = zip(noise_preds, self.guidance.order, strict=True)
            return [Term(noise_pred, weights[half], view) for noise_pred, half in pairs]
        return [
            Term(noise_preds[0], weights[half], (Slice(0, i * self.images, (i + 1) * self.images), *view))
            for i, half in enumerate(self.guidance.order)
        ]

    def _step_terms(self, index: int) -> list[Term]:
        names = {"sample": "latents", "noise_pred": "noise", "noise": _DRAW}
        terms = []
        for term in self.schedule.steps[index].terms:
            value = f"{names[term.kind]}@{term.index}"
            self.specs.setdefault(value, self.latents)  # a noise draw is met here for the first time
            terms.append(Term(value, Coefficient(term.coefficient)))
        return terms

    def _combine(self, output: str, terms: list[Term], spec: TensorSpec) -> None:
        self.specs[output] = spec
        self.instructions.append(Combine(tuple(terms), output))


def in_half(value: str, half: str | None) -> str:
    """The name of a value as one half of a call computes it."""
    return value if half is None else f"{value}.{half}"


def given_to(half: str | None, condition: str) -> str:
    """The program input that a half reads as a condition."""
    return condition if half is None else half_of(condition, half)
