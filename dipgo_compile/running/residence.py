"""On which side of the bus the values of a plan live.

Runs read and write where their engines compute; combinations are the host's, and so are inputs and results.
With engines on the host both are the same arrays. With engines on a device, a value that only runs touch
lives there alone. One that both sides touch has a place on each, and is copied once, right after it was
written: latents on their way in, predictions on their way out. Both places have the offset of the memory
plan, whose lifetimes hold for either.

Sums of residuals are combinations, too, of whole hidden states: the device computes those itself. In float16
it may round once where the host rounds after each term.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from dipgo_compile.backends.base import Buffer, Memory
from dipgo_compile.plan import Plan
from dipgo_compile.program import Array, Combine, Program, Run, is_signed_sum, reads, writes
from dipgo_compile.running.host_calls import Step


class Residence:
    """What engines are given for each value, and the copies between that and ``tensors``, the host's."""

    def __init__(self, plan: Plan, tensors: Mapping[str, Array], memory: Memory | None) -> None:
        """Without ``memory``, engines are given the host's arrays."""
        self._tensors, self._memory = tensors, memory
        self._placed: dict[str, Buffer] = dict(tensors)
        self._shared: frozenset[str] = frozenset()
        self._sums: frozenset[str] = frozenset()
        if memory is None:
            return
        program, self._specs = plan.program, plan.program.specs
        on_device = touched_by_device(program)
        self._shared = frozenset(on_device & touched_by_host(program) - program.constants.keys())
        self._sums = device_sums(program)
        for name in on_device:
            if name in program.constants:
                self._placed[name] = memory.constant(program.constants[name])
            else:
                offset = plan.memory.allocations[name].offset
                self._placed[name] = memory.place(offset, program.specs[name])

    def __getitem__(self, name: str) -> Buffer:
        """What ``EngineSession.bind`` takes for the value."""
        return self._placed[name]

    def summed(self, combine: Combine) -> Step | None:
        """The combination as a step of the device, or None where it is the host's."""
        if self._memory is None or combine.output not in self._sums:
            return None
        terms = [(self._placed[term.value], term.coefficient.constant) for term in combine.terms]
        return self._memory.sum(self._placed[combine.output], self._specs[combine.output], terms)

    def sent(self, names: Iterable[str]) -> tuple[Step, ...]:
        """The copies due when the host has written these values."""
        if self._memory is None:
            return ()
        upload = self._memory.upload
        return tuple(partial(upload, self._tensors[n], self._placed[n]) for n in names if n in self._shared)

    def fetched(self, names: Iterable[str]) -> tuple[Step, ...]:
        """The copies due when the device has written these values."""
        if self._memory is None:
            return ()
        download = self._memory.download
        return tuple(partial(download, self._placed[n], self._tensors[n]) for n in names if n in self._shared)


def device_sums(program: Program) -> frozenset[str]:
    """The values that are sums, of two or more, of what runs or other such sums have written."""
    there = {name for run in program.runs() for name in writes(run)}
    found: set[str] = set()
    for instruction in program.instructions:
        if isinstance(instruction, Combine) and len(instruction.terms) > 1 and is_signed_sum(instruction):
            spec = program.specs[instruction.output]
            if all(
                term.value in there and not term.view and program.specs[term.value] == spec
                for term in instruction.terms
            ):
                found.add(instruction.output)
                there.add(instruction.output)
    return frozenset(found)


def touched_by_device(program: Program) -> set[str]:
    """Values that runs, and sums on the device, read or write."""
    sums = device_sums(program)
    touched: set[str] = set()
    for instruction in program.instructions:
        if isinstance(instruction, Run) or instruction.output in sums:
            touched.update((*reads(instruction), *writes(instruction)))
    return touched


def touched_by_host(program: Program) -> set[str]:
    """Values that are fed, handed out, or combined on the host. A host with a scheduler of its own feeds
    samples and takes noise predictions.
    """
    touched, sums = {*program.inputs, program.output}, device_sums(program)
    for call in program.calls:
        touched |= {name for name in (call.sample, *call.noise_preds) if name is not None}
    for instruction in program.instructions:
        if not isinstance(instruction, Run) and instruction.output not in sums:
            touched.update((*reads(instruction), *writes(instruction)))
    return touched


def followed_by(step: Step, copies: tuple[Step, ...]) -> Step:
    """A step, and then the copies that it makes necessary."""
    if not copies:
        return step

    def both() -> None:
        step()
        for copy in copies:
            copy()

    return both
