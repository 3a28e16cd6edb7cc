"""The interpreter of a plan: the reference for every other runtime.

All memory is taken once: an arena, a view of it for every value, a bound run for every ``Run``, a prepared
closure for every ``Combine``. An image then allocates nothing but its result. A session belongs to one thread
at a time; engines are shared between sessions.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dipgo_compile.backends.base import EngineSession, Memory
from dipgo_compile.errors import BundleError, InputError
from dipgo_compile.formats.plan_json import ALIGNMENT
from dipgo_compile.plan import Plan
from dipgo_compile.program import (
    PROLOGUE,
    Array,
    Coefficient,
    Combine,
    Instruction,
    Run,
    TensorSpec,
    Term,
    is_signed_sum,
    writes,
)
from dipgo_compile.running.host_calls import HostCalls, Step
from dipgo_compile.running.residence import Residence, followed_by
from dipgo_compile.running.unguided import SCALE, unguided

Arena = npt.NDArray[np.uint8]
Coefficients = list[float]


@dataclass(frozen=True, slots=True)
class _Course:
    """The steps of an image in order. ``starts``: where a denoiser call begins, and which, for callbacks."""

    steps: tuple[Step, ...]
    starts: tuple[tuple[int, int], ...]

    def follow(self, callback: Callable[[int], None]) -> None:
        begin = 0
        for start, call in self.starts:
            for step in self.steps[begin:start]:
                step()
            callback(call)
            begin = start
        for step in self.steps[begin:]:
            step()


class Session:
    """Executes one plan, one image at a time. See ``Runtime.session``.

    ``arena`` is memory for the plan's values, as ``new_arena`` gives it and at least as large as the plan's;
    by default its own. Sessions may share one, if they take turns: an image leaves nothing in it that another
    reads. ``memory`` is where the engines compute, if not in the process's own: see ``Backend.memory``.
    """

    def __init__(
        self,
        plan: Plan,
        engines: Mapping[str, EngineSession],
        memory: Memory | None = None,
        arena: Arena | None = None,
    ) -> None:
        self.plan = plan
        self._engines = engines
        self._busy = threading.Lock()
        if arena is None:
            arena = new_arena(plan.memory.arena_bytes, touch=memory is None)
        self._tensors = placed(plan, arena)
        self._residence = Residence(plan, self._tensors, memory)
        self._guided: list[tuple[int, Coefficient]] = []
        self._coefficients: Coefficients = []
        program = plan.program
        combines = [instruction for instruction in program.instructions if isinstance(instruction, Combine)]
        sizes = [program.specs[combine.output].nbytes for combine in combines if not is_signed_sum(combine)]
        self._scratch = aligned(max(sizes, default=0))
        self._steps = tuple(map(self._step, program.instructions))
        self._course = _course(program.instructions, self._steps)
        left = unguided(program)
        pairs = zip(program.instructions, self._steps, left, strict=True)
        steps = [step if kept is whole else self._step(kept) for whole, step, kept in pairs if kept]
        self._unguided = _course([kept for kept in left if kept], steps)
        self._host: HostCalls | None = None
        self._next_call = 0

    def denoise(
        self,
        latents: npt.ArrayLike,
        conditions: Mapping[str, npt.ArrayLike],
        *,
        guidance_scale: float = 7.5,
        draws: Sequence[npt.ArrayLike] = (),
        image_latents: npt.ArrayLike | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> Array:
        """The final latents, a new array.

        ``latents`` is the initial noise, of unit variance; ``conditions`` go by name, their batch doubled
        under guidance; ``draws`` is the unit noise of stochastic schedulers; ``image_latents`` is what an
        image-to-image plan begins with. At a ``guidance_scale`` of 1 only what the conditional prediction
        takes is computed (``unguided.py``). ``callback`` gets the index of every denoiser call that computes
        anything, before it runs; an exception from it ends the image. Raises InputError.
        """
        interface = self.plan.interface
        with self._claimed():
            self._next_call = 0  # whatever a host was at is overwritten
            self._feed_conditions(conditions)
            self._feed(interface.latents, latents)
            self._feed_image(image_latents)
            if len(draws) != len(interface.draws):
                raise InputError(
                    f"the plan takes {len(interface.draws)} noise draws, {len(draws)} were given"
                )
            for name, draw in zip(interface.draws, draws, strict=True):
                self._feed(name, draw)
            for index, coefficient in self._guided:
                self._coefficients[index] = coefficient.at(guidance_scale)
            course = self._unguided if guidance_scale == SCALE else self._course
            if callback is None:
                for step in course.steps:
                    step()
            else:
                course.follow(callback)
            return self._tensors[self.plan.program.output].copy()

    def warm_up(self) -> None:
        """Compute every engine once, on whatever lies in the arena, so that weights and activations are in
        memory before the first image.
        """
        with self._claimed():
            for step in self.engine_steps().values():
                step()

    def engine_steps(self) -> dict[str, Step]:
        """The first run of every engine, by its name: calling it computes on whatever lies in the arena."""
        pairs = zip(self.plan.program.instructions, self._steps, strict=True)
        steps: dict[str, Step] = {}
        for run, step in pairs:
            if isinstance(run, Run):
                steps.setdefault(run.engine, step)
        return steps

    def run_call(self, index: int, sample: npt.ArrayLike, conditions: Mapping[str, npt.ArrayLike]) -> Array:
        """The noise prediction of one denoiser call, a new array, for hosts with their own scheduler.

        ``sample`` is what the denoiser reads: scaled, and doubled under guidance; where a plan reads one half
        for both, they must be the same, as they are in a diffusers pipeline. Calls come in order; call 0
        starts an image, forgets the one before and is the only one to read ``conditions``. Raises
        InputError.
        """
        with self._claimed():
            if index not in (0, self._next_call) or index >= len(self.plan.program.calls):
                raise InputError(
                    f"call {index} cannot run now: the next is {self._next_call}, or 0 for a new image"
                )
            if self._host is None:
                self._host = HostCalls(self.plan.program, self._tensors, self._steps, self._residence.sent)
            self._next_call = 0  # should anything fail, the image has to start again
            self._feed_sample(self._host, sample)
            if index == 0:
                self._feed_conditions(conditions)
            self._host.run(index)
            self._next_call = index + 1
            return self._host.noise_pred.copy()

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise InputError(
                "this session is at work in another thread", mend="take one per thread: runtime.session()"
            )
        try:
            yield
        finally:
            self._busy.release()

    def _feed_sample(self, host: HostCalls, sample: npt.ArrayLike) -> None:
        name, spec = self.plan.interface.sample, TensorSpec(host.sample.dtype.name, host.sample.shape)
        given = checked(name, sample, spec.repeated(host.copies))
        first, *others = _parts(given, host.copies)
        if any(other.tobytes() != first.tobytes() for other in others):
            split = self.plan.interface.split
            option = "without --split-guidance" if split else "with --disable-pass share_halves"
            raise InputError(
                f"the halves of {name} differ, and the plan reads one for both",
                mend=f"pass the same samples twice, or build the bundle {option}",
            )
        np.copyto(host.sample, first)

    def _feed_conditions(self, conditions: Mapping[str, npt.ArrayLike]) -> None:
        wanted = self.plan.interface.conditions
        if sorted(conditions) != sorted(wanted):
            raise InputError(
                f"the conditions given are not those of the plan: {', '.join(conditions) or 'none'}",
                available=wanted,
                mend="pass each of these by its name, and no other",
            )
        for name, value in conditions.items():
            inputs = self.plan.interface.inputs_of(name)
            given = checked(name, value, self.plan.condition(name))
            for half, part in zip(inputs, _parts(given, len(inputs)), strict=True):
                self._put(half, part)

    def _feed_image(self, latents: npt.ArrayLike | None) -> None:
        name = self.plan.interface.image_latents
        if name is None and latents is not None:
            raise InputError(
                "an image was given, but the plan begins with noise alone",
                mend="build for images: dipgo-compile build --start-step K",
            )
        if name is not None and latents is None:
            raise InputError(
                "the plan begins with an image, and none was given",
                mend=f"pass its latents as {name}, or build a bundle without --start-step",
            )
        if name is not None and latents is not None:
            self._feed(name, latents)

    def _feed(self, name: str, value: npt.ArrayLike) -> None:
        self._put(name, checked(name, value, self.plan.program.specs[name]))

    def _put(self, name: str, value: Array) -> None:
        np.copyto(self._tensors[name], value)
        for send in self._residence.sent((name,)):
            send()

    def _step(self, instruction: Instruction) -> Step:
        return self._bind(instruction) if isinstance(instruction, Run) else self._prepare(instruction)

    def _bind(self, run: Run) -> Step:
        bound = self._engines[run.engine].bind(
            [self._residence[name] for name in run.inputs],
            [None if name is None else self._residence[name] for name in run.outputs],
        )
        return followed_by(bound, self._residence.fetched(writes(run)))

    def _coefficient(self, coefficient: Coefficient) -> int:
        """The coefficient's place in the table that is filled in once per image."""
        index = len(self._coefficients)
        self._coefficients.append(coefficient.constant)
        if coefficient.guidance:
            self._guided.append((index, coefficient))
        return index

    def _prepare(self, combine: Combine) -> Step:
        summed = self._residence.summed(combine)
        if summed is not None:
            return followed_by(summed, self._residence.fetched((combine.output,)))
        return followed_by(self._combine(combine), self._residence.sent((combine.output,)))

    def _combine(self, combine: Combine) -> Step:
        output = self._tensors[combine.output]
        values = [viewed(self._tensors[term.value], term) for term in combine.terms]
        length = len(values[0])
        part = output[:length]
        copies = tuple(output[start : start + length] for start in range(length, len(output), length))
        if is_signed_sum(combine):
            signs = [term.coefficient.constant for term in combine.terms]
            return signed_sum(part, copies, list(zip(values, signs, strict=True)))
        indices = [self._coefficient(term.coefficient) for term in combine.terms]
        scratch = self._scratch[: part.nbytes].view(part.dtype).reshape(part.shape)
        return linear(part, scratch, copies, list(zip(values, indices, strict=True)), self._coefficients)


def _course(instructions: Sequence[Instruction], steps: Sequence[Step]) -> _Course:
    starts: dict[int, int] = {}
    for index, instruction in enumerate(instructions):
        if isinstance(instruction, Run) and instruction.call != PROLOGUE:
            starts.setdefault(instruction.call, index)
    return _Course(tuple(steps), tuple((index, call) for call, index in starts.items()))


def _parts(array: Array, count: int) -> list[Array]:
    """Equal parts along the batch. A single one may have no batch."""
    return [array] if count == 1 else np.split(array, count)


def linear(
    output: Array,
    scratch: Array,
    copies: tuple[Array, ...],
    terms: Sequence[tuple[Array, int]],
    coefficients: Coefficients,
) -> Step:
    """``output = sum(coefficients[i] * term)``, then the same into ``copies``. Computed in the output's
    dtype: plain Python floats do not promote it.
    """
    (first, at), *rest = terms
    multiply, add, copyto = np.multiply, np.add, np.copyto

    def step() -> None:
        multiply(first, coefficients[at], out=output)
        for term, index in rest:
            multiply(term, coefficients[index], out=scratch)
            add(output, scratch, out=output)
        for copy in copies:
            copyto(copy, output)

    return step


def signed_sum(output: Array, copies: tuple[Array, ...], terms: Sequence[tuple[Array, float]]) -> Step:
    """What ``linear`` computes when all coefficients are 1 or -1, as those of residuals are. A product with
    them is exact, so leaving it out changes no bit and halves the work.
    """
    operations: list[tuple[np.ufunc, tuple[Array, ...]]] = []
    (total, sign), *rest = terms
    if sign < 0 or not rest:
        operations.append((np.negative if sign < 0 else np.positive, (total,)))
        total = output
    for term, sign in rest:
        operations.append((np.add if sign > 0 else np.subtract, (total, term)))
        total = output

    def step() -> None:
        for operation, operands in operations:
            operation(*operands, out=output)
        for copy in copies:
            np.copyto(copy, output)

    return step


def aligned(nbytes: int, *, touch: bool = True) -> Arena:
    """Zeroed memory at a multiple of ``ALIGNMENT`` bytes. ``touch``: write it once, which takes its
    pages from the kernel now, at about half a second per gigabyte, instead of during the first image.
    """
    memory = np.zeros(nbytes + ALIGNMENT, np.uint8)  # the kernel's zeroes, which cost nothing until written
    if touch:
        memory.fill(0)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]


def new_arena(wanted: int, *, touch: bool = True) -> Arena:
    """So many bytes for a plan's values. Pages that aren't to be touched now are taken when they are written.
    Raises BundleError where the machine has not the memory.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > there:
        raise BundleError(
            f"the plan's values take {wanted:,} bytes, this machine has {there:,}",
            mend="build the bundle for fewer or smaller images, or run it on a larger machine",
        )
    return aligned(wanted, touch=touch)


def placed(plan: Plan, arena: Arena) -> dict[str, Array]:
    """A view for every value: of the arena, or of the constants."""
    tensors: dict[str, Array] = dict(plan.program.constants)
    for name, place in plan.memory.allocations.items():
        spec = plan.program.specs[name]
        tensors[name] = arena[place.offset : place.offset + spec.nbytes].view(spec.dtype).reshape(spec.shape)
    return tensors


def viewed(tensor: Array, term: Term) -> Array:
    index = [slice(None)] * tensor.ndim
    for part in term.view:
        index[part.axis] = slice(part.start, part.stop)
    return tensor[tuple(index)]


def checked(name: str, value: npt.ArrayLike, spec: TensorSpec) -> Array:
    """The value as an array of exactly the expected dtype and shape. Raises InputError; NaN and infinity
    pass.
    """
    try:
        array = np.asarray(value)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # torch: tensors on a GPU, or that require a gradient
        raise InputError(
            f"{name} is not an array: {error}", mend="pass a numpy array or a CPU tensor"
        ) from None
    if array.shape != spec.shape:
        raise InputError(
            f"{name} has shape {array.shape}, the plan was compiled for {spec.shape}",
            mend="pass that shape, or build a bundle for this one",
        )
    if array.dtype != spec.dtype:
        raise InputError(
            f"{name} is {array.dtype}, the plan takes {spec.dtype}",
            mend=f"convert it: .astype({spec.dtype!r}) in numpy, .to(torch.{spec.dtype}) in torch",
        )
    return array


def unit_noise(shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[np.float32]:
    return generator.standard_normal(math.prod(shape), np.float32).reshape(shape)
