"""What keeps memory low besides ONNX Runtime's own options."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence

from dipgo_compile.backends.base import Buffer, EngineSession

M_MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE_BYTES = 256 * 1024


@functools.cache
def return_freed_memory() -> None:
    """Have every large buffer go back to the system when it is freed.

    glibc says that it does so, but what it calls large grows with the buffers that are freed, up to 32 MiB;
    smaller ones stay the process's. Fixed here for the whole process, from now on. Another C library is left
    as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def trim_heap() -> None:
    """Give back what is free now. Opening an engine frees as much as the weights in its loops' bodies take,
    which ONNX Runtime packs before it finds them packed, and glibc keeps that. Another C library is left
    as it is.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class BriefEngine:
    """An engine that is opened for each of its runs, and closed: its weights are in memory only then. For
    engines that run once an image, where that takes milliseconds.
    """

    def __init__(self, open_engine: Callable[[], EngineSession]) -> None:
        self._open = open_engine

    def bind(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer | None]) -> Callable[[], None]:
        """See ``EngineSession.bind``. An engine that can't be opened or bound is refused here, too."""
        self._open().bind(inputs, outputs)

        def run() -> None:
            self._open().bind(inputs, outputs)()

        return run
