"""A plan's denoiser calls for a host that keeps its own scheduler.

Of the program only what belongs to the calls is executed, call by call: the runs, and the combinations
between them (``Program.call_values``); the host supplies what the scheduler's combinations would have
computed. Values keep the places the memory plan gave them, so everything happens in the program's order: a
sample is written where the combine that defines it stands.

A host sends both halves of a guided batch. Where the plan reads one for both, under split guidance or where
the halves share what they have in common (``share_halves``), they have to be the same, and a call takes one
half. Under split guidance it gives its two predictions into the parts of ``noise_pred``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from dipgo_compile.errors import CompileError
from dipgo_compile.program import PROLOGUE, Array, Program, Run, reads, writes

Step = Callable[[], None]


class HostCalls:
    """The steps of every call, the prologue's being call 0's. ``sample`` and ``noise_pred`` are the buffers
    between host and program; they are apart from the arena, because values in it are overwritten as soon as
    the program has no more use for them. ``noise_pred`` has room for ``halves`` predictions. What a host
    sends as a sample is ``copies`` times ``sample``. ``sent`` gives the copies that are due when values in
    ``tensors`` have been written (``residence.py``).

    Raises CompileError when the program cannot be cut at its calls.
    """

    def __init__(
        self,
        program: Program,
        tensors: Mapping[str, Array],
        steps: Sequence[Step],
        sent: Callable[[Iterable[str]], Sequence[Step]] = lambda names: (),
    ) -> None:
        self._tensors, self._sent = tensors, sent
        self._steps: list[list[Step]] = [[] for _ in program.calls]
        first_use: dict[str, int] = {}
        for index, call in enumerate(program.calls):
            if call.sample is not None:
                first_use.setdefault(call.sample, index)
        if not first_use:
            raise CompileError("no call of the program reads a sample")
        self.sample = np.empty_like(tensors[next(iter(first_use))])
        first = [tensors[name] for name in program.calls[0].noise_preds]
        self.halves = len(first)
        self.noise_pred = np.concatenate(first)
        self._parts = np.split(self.noise_pred, self.halves)
        self.copies = len(self.noise_pred) // len(self.sample)

        needed = program.call_values()
        calls = reversed(list(enumerate(program.calls)))
        answers = {name: index for index, call in calls for name in call.noise_preds}
        since = dict.fromkeys((*program.constants, *program.inputs), 0) | first_use  # first call to have it
        held = [[""] * self.halves for _ in program.calls]
        current = 0
        for name in program.inputs:
            if name in first_use:
                self._take(first_use[name], name)
        for instruction, step in zip(program.instructions, steps, strict=True):
            if isinstance(instruction, Run):
                index = 0 if instruction.call == PROLOGUE else instruction.call
            elif instruction.output in first_use:
                self._take(first_use[instruction.output], instruction.output)
                continue
            elif instruction.output in needed:
                earliest = [since.get(name, 0) for name in reads(instruction)]
                index = max(current, answers.get(instruction.output, 0), *earliest)
            else:
                continue
            missing = [name for name in reads(instruction) if since.get(name, len(held)) > index]
            if index < current or missing:
                problem = (
                    f"reads {missing[0]!r}, which no host supplies" if missing else "runs after a later one"
                )
                raise CompileError(f"call {index} {problem}")
            current = index
            self._steps[index].append(step)
            since |= dict.fromkeys(writes(instruction), index)
            for half, name in enumerate(program.calls[index].noise_preds):
                if name in writes(instruction):
                    self._give(index, half, name)
                    held[index][half] = name
        for index, call in enumerate(program.calls):
            before = held[max(index - 1, 0)]
            held[index] = [given or earlier for given, earlier in zip(held[index], before, strict=True)]
            if tuple(held[index]) != call.noise_preds:
                raise CompileError(
                    f"call {index} does not answer with {', '.join(map(repr, call.noise_preds))}, the "
                    "program's own"
                )

    def run(self, index: int) -> None:
        """Execute one call: ``sample`` in, ``noise_pred`` out. A call that computes nothing leaves it as it
        was.
        """
        for step in self._steps[index]:
            step()

    def _take(self, index: int, name: str) -> None:
        target, sample = self._tensors[name], self.sample
        self._steps[index].append(lambda: np.copyto(target, sample))
        self._steps[index].extend(self._sent((name,)))

    def _give(self, index: int, half: int, name: str) -> None:
        source, part = self._tensors[name], self._parts[half]
        self._steps[index].append(lambda: np.copyto(part, source))
