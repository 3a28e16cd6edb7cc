"""fuse: neighbouring runs of a call become one engine.

Fewer engines mean fewer runs and fewer tensors handed from one to the next, which ONNX Runtime must bring
back from the layout of its convolutions each time; but every engine costs time to load. There are two ways to
cut, and they can be mixed:

*Patterns*: one engine for each distinct set of blocks that a call computes, one run a call. A weight is used
by many engines. A trained mask has a handful of patterns, a random one nearly as many as calls.

*Atoms*: neighbouring blocks that are always computed in the same calls become one engine, so that every
weight belongs to a single one. There are never more engines than blocks.

``auto`` estimates what each mixture costs beyond its blocks' own work: the patterns that save most for their
calls, and atoms for the remaining calls. It takes at most ``max_engines`` patterns, or more if they leave so
few atoms that there are no more engines.

A combination may stand between the runs of a call: a block that reuses its residual. It divides the call into
*stretches*, and whatever is said here of calls holds for each stretch by itself. So do the halves of split
guidance: both compute the same blocks, by the same engines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import onnx_ir as ir

from dipgo_compile.errors import InputError
from dipgo_compile.graphs.subgraph import boundary
from dipgo_compile.passes.base import Pass, PassResult
from dipgo_compile.program import PROLOGUE, Engine, Instruction, Program, Run, reads

STRATEGIES = ("auto", "patterns", "atoms", "none")
MAX_ENGINES = 8
RUN_SECONDS = 30e-6  # a run of a bound ONNX Runtime session that computes next to nothing
BYTES_PER_SECOND = 4e9  # a tensor written by one engine in one layout and read by the next in another

Blocks = tuple[str, ...]
Cover = Mapping[int, tuple[Blocks, ...]]
"""For each stretch, by its number in the program, which of its runs become one, in order."""


@dataclass(frozen=True)
class _Group:
    """Runs of one stretch seen as one. Tensor names map to the values they stand for in it."""

    inside: Mapping[str, str]
    outside: Mapping[str, str]
    outputs: tuple[str, ...]


class Fuse(Pass):
    """``strategy``: one of ``STRATEGIES``; ``none`` leaves one engine a block. ``max_engines`` bounds the
    patterns that ``auto`` makes. Raises InputError.
    """

    name = "fuse"

    def __init__(self, model: ir.Model, strategy: str = "auto", max_engines: int = MAX_ENGINES) -> None:
        if strategy not in STRATEGIES:
            raise InputError(f"there is no way to fuse called {strategy!r}", available=STRATEGIES)
        self._model, self._strategy, self._max_engines = model, strategy, max_engines

    def __call__(self, program: Program) -> PassResult:
        stretches = _Stretches(program)
        cover, why = self._choose(stretches)
        groups: dict[Blocks, dict[int, _Group]] = {}
        for stretch, parts in cover.items():
            for blocks in parts:
                if len(blocks) > 1:
                    groups.setdefault(blocks, {})[stretch] = stretches.group(stretch, blocks)
        if not groups:
            return PassResult(program, False, why)
        engines = self._engines(groups, stretches)
        replaced: dict[Run, Run | None] = {}
        for blocks, by_stretch in groups.items():
            engine = engines[blocks]
            for stretch, group in by_stretch.items():
                *earlier, last = stretches.runs_of(stretch, blocks)
                inputs = tuple(group.outside[name] for name in engine.inputs)
                outputs = tuple(
                    group.inside[name] if name in group.outputs else None for name in engine.outputs
                )
                joined = replace(last, engine=engine.name, inputs=inputs, outputs=outputs)
                replaced |= dict.fromkeys(earlier) | {last: joined}
        instructions: list[Instruction] = []
        for instruction in program.instructions:
            kept = replaced.get(instruction, instruction) if isinstance(instruction, Run) else instruction
            if kept is not None:
                instructions.append(kept)
        result = replace(program, engines=(*program.engines, *engines.values())).with_instructions(
            tuple(instructions)
        )
        before, after = sum(1 for _ in program.runs()), sum(1 for _ in result.runs())
        summary = f"{before} runs became {after}, in {len(result.engines)} engines ({why})"
        return PassResult(result, True, summary)

    def _choose(self, stretches: _Stretches) -> tuple[Cover, str]:
        if self._strategy == "none":
            return {}, "one engine a block"
        if self._strategy == "atoms":
            return stretches.cover(0), "atoms"
        if self._strategy == "patterns":
            return stretches.cover(len(stretches.patterns)), "patterns"
        covers = [stretches.cover(count) for count in range(len(stretches.patterns) + 1)]
        engines = [len({blocks for parts in cover.values() for blocks in parts}) for cover in covers]
        most = max(engines[: self._max_engines + 1])
        costs = {
            count: stretches.cost(cover)
            for count, cover in enumerate(covers)
            if count <= self._max_engines or engines[count] <= most
        }
        best = min(costs, key=lambda count: (costs[count], count))
        unfused = stretches.cost(stretches.separate)
        why = (
            f"{best} of {len(stretches.patterns)} patterns, atoms for the rest: estimated to cost "
            f"{1e3 * costs[best]:.2f} ms an image beside the blocks' own work; atoms alone "
            f"{1e3 * costs[0]:.2f} ms, one engine a block {1e3 * unfused:.2f} ms"
        )
        return stretches.cover(best), why

    def _engines(
        self, groups: Mapping[Blocks, Mapping[int, _Group]], stretches: _Stretches
    ) -> dict[Blocks, Engine]:
        """One for each set of blocks; its outputs are all that any of its runs must hand on."""
        engines: dict[Blocks, Engine] = {}
        count: Counter[str] = Counter()
        for blocks, by_stretch in groups.items():
            kind = "pattern" if blocks in stretches.patterns else "atom"
            outputs = tuple(dict.fromkeys(name for group in by_stretch.values() for name in group.outputs))
            outside = next(iter(by_stretch.values())).outside
            inputs = boundary(self._model, tuple(outside), outputs)
            engines[blocks] = Engine(f"{kind}{count[kind]}", blocks, inputs, outputs)
            count[kind] += 1
        return engines


class _Stretches:
    """The runs of a program by stretch, and ways to join them. Dead runs are left alone.

    The runs of a stretch are of one call, of one half of it under split guidance, and nothing else reads what
    they compute before the last of them has run: joined at the place of the last, they find all they read,
    and come before all that reads them.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._engine = {engine.name: engine for engine in program.engines}
        self._readers: dict[str, set[Run | None]] = {
            name: {None} for call in program.calls for name in call.noise_preds
        }
        for instruction in program.instructions:
            reader = instruction if isinstance(instruction, Run) else None
            for name in reads(instruction):
                self._readers.setdefault(name, set()).add(reader)
        self._runs = [{run.engine: run for run in runs} for runs in self._cut()]
        self._blocks = [tuple(runs) for runs in self._runs]
        times = Counter(self._blocks)
        self.patterns: tuple[Blocks, ...] = tuple(
            sorted(
                (blocks for blocks in times if len(blocks) > 1),
                key=lambda blocks: (len(blocks) - 1) * times[blocks],
                reverse=True,
            )
        )
        """Those whose engine saves the most runs first."""
        self.separate: Cover = dict(enumerate(tuple((block,) for block in blocks) for blocks in self._blocks))

    def _cut(self) -> list[list[Run]]:
        stretches: list[list[Run]] = []
        place: tuple[int, str | None] | None = None  # call and half of the stretch that may go on
        computed: set[str | None] = set()  # by it
        for instruction in self._program.instructions:
            if isinstance(instruction, Run) and self._can_be_joined(instruction):
                if (instruction.call, instruction.half) != place:
                    stretches.append([])
                    place, computed = (instruction.call, instruction.half), set()
                stretches[-1].append(instruction)
                computed.update(instruction.outputs)
            elif not computed.isdisjoint(reads(instruction)):
                place = None
        return stretches

    def _can_be_joined(self, run: Run) -> bool:
        return run.call != PROLOGUE and any(name in self._readers for name in run.outputs)

    def runs_of(self, stretch: int, blocks: Blocks) -> list[Run]:
        return [self._runs[stretch][block] for block in blocks]

    def cover(self, patterns: int) -> Cover:
        """The first ``patterns`` patterns whole, the stretches that have none of them in atoms."""
        whole = set(self.patterns[:patterns])
        rest = {stretch: blocks for stretch, blocks in enumerate(self._blocks) if blocks not in whole}
        atom_of = {block: atom for atom in self._atoms(rest) for block in atom}
        cover: dict[int, tuple[Blocks, ...]] = {}
        for stretch, blocks in enumerate(self._blocks):
            parts = (blocks,) if stretch not in rest else dict.fromkeys(atom_of[block] for block in blocks)
            cover[stretch] = tuple(parts)
        return cover

    def _atoms(self, stretches: Mapping[int, Blocks]) -> list[Blocks]:
        """Neighbours that are computed in the same of these stretches. Blocks in none don't separate."""
        computed: dict[str, set[int]] = {}
        for stretch, blocks in stretches.items():
            for block in blocks:
                computed.setdefault(block, set()).add(stretch)
        order = [engine.name for engine in self._program.engines if engine.name in computed]
        return [tuple(atom) for _, atom in groupby(order, key=lambda block: computed[block])]

    def cost(self, cover: Cover) -> float:
        """Seconds an image, by estimate, for calling engines and handing tensors from one to the next."""
        return sum(self._cost_of(stretch, blocks) for stretch, parts in cover.items() for blocks in parts)

    def _cost_of(self, stretch: int, blocks: Blocks) -> float:
        group = self.group(stretch, blocks)
        values = [*group.outside.values(), *(group.inside[name] for name in group.outputs)]
        crossing = sum(
            self._program.specs[name].nbytes for name in values if name not in self._program.constants
        )
        return RUN_SECONDS + crossing / BYTES_PER_SECOND

    def group(self, stretch: int, blocks: Blocks) -> _Group:
        runs = self.runs_of(stretch, blocks)
        members = set(runs)
        inside: dict[str, str] = {}
        outside: dict[str, str] = {}
        for run in runs:
            engine = self._engine[run.engine]
            for tensor, value in zip(engine.inputs, run.inputs, strict=True):
                if inside.get(tensor) != value:
                    outside[tensor] = value
            inside |= {t: v for t, v in zip(engine.outputs, run.outputs, strict=True) if v is not None}
        outputs = tuple(t for t, v in inside.items() if self._readers.get(v, set()) - members)
        return _Group(inside, outside, outputs)
