"""plan_memory: an offset in one arena for every value that is not a constant.

Greedy by size (Pisarchyk and Lee, 2020, "Efficient memory management for deep neural net inference"): the
largest values are placed first, each at the lowest offset where it meets no value that is alive at the same
time. Naive planning, every value a place of its own, is the yardstick.
"""

from __future__ import annotations

from dipgo_compile.program import Allocation, MemoryPlan, Program, reads, writes

ALIGNMENT = 64  # bytes: a cache line, and an AVX-512 register


def plan_memory(program: Program) -> MemoryPlan:
    """Place inputs and computed values. Inputs are alive from the start, the output to the end."""
    lifetimes = _lifetimes(program)
    placed: list[tuple[str, Allocation]] = []
    size = {name: _aligned(program.specs[name].nbytes) for name in lifetimes}
    for name in sorted(lifetimes, key=lambda name: (-size[name], lifetimes[name])):
        first, last = lifetimes[name]
        offset = 0
        for _, other in sorted(placed, key=lambda item: item[1].offset):
            if other.last < first or last < other.first:
                continue
            if offset + size[name] <= other.offset:
                break
            offset = max(offset, other.offset + _aligned(other.nbytes))
        placed.append((name, Allocation(offset, program.specs[name].nbytes, first, last)))
    arena = max((a.offset + _aligned(a.nbytes) for _, a in placed), default=0)
    return MemoryPlan(dict(placed), arena, naive_bytes=sum(size.values()))


def _lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    """First and last instruction during which each value is alive, both included."""
    first = dict.fromkeys(program.inputs, 0)
    last = dict(first)
    for index, instruction in enumerate(program.instructions):
        for name in writes(instruction):
            first[name] = last[name] = index
        for name in reads(instruction):
            if name not in program.constants:
                last[name] = index
    last[program.output] = len(program.instructions)
    return {name: (first[name], last[name]) for name in first}


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
