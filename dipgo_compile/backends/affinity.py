"""Which processors the threads of an engine run on, in the form that ONNX Runtime reads.

``1,2;3-4``: semicolons part the threads, commas and intervals name the processors of one. Processors count
from 1, as ONNX Runtime counts them, so 1 is the system's 0. The calling thread computes too and is placed by
whoever started it (``taskset``): there is one thread more than the text places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from dipgo_compile.errors import InputError

PROCESSORS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*", re.ASCII)


def threads_of(affinity: str, threads: int | None = None) -> int:
    """The threads that ``affinity`` is for, the calling one included. Raises InputError unless it is well
    formed, for so many ``threads``, and names processors that this process may use.
    """
    available = sorted(processor + 1 for processor in os.sched_getaffinity(0))
    parts = affinity.split(";")
    for part in parts:
        if not PROCESSORS.fullmatch(part):
            raise InputError(
                f"the affinity {affinity!r} does not say where a thread runs: {part!r}",
                mend='write it as "1,2;3-4": processors from 1 on, a semicolon between threads',
            )
        strange = next((number for number in _numbers(part) if number not in available), None)
        if strange is not None:
            raise InputError(
                f"there is no processor {strange} for the affinity {affinity!r}", available=available
            )
    if threads not in (None, len(parts) + 1):
        raise InputError(
            f"the affinity {affinity!r} places {len(parts)} threads, {threads} threads were asked for",
            mend=f"ask for {len(parts) + 1}: the calling thread computes too, and is not placed",
        )
    return len(parts) + 1


def _numbers(part: str) -> Iterator[int]:
    for item in part.split(","):
        first, _, last = item.partition("-")
        yield from sorted((int(first), int(last or first)))
        yield from range(int(first), int(last or first))
