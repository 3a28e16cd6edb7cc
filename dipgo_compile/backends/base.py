"""What a backend must offer.

A backend computes engines; it knows nothing of masks, schedulers or the
order of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from dipgo_compile.bundle import Bundle
from dipgo_compile.program import Array


class EngineSession(Protocol):
    """One loaded engine. It may be bound any number of times; runs of several threads may overlap."""

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Callable[[], None]:
        """A run with fixed buffers, in the order of the engine's tensors: calling it reads ``inputs`` as they
        then are and fills ``outputs``. An output of None is not wanted. Arrays are contiguous and outlive the
        result.

        The result raises BackendError when the engine fails.
        """
        ...


class Backend(Protocol):
    """An execution provider."""

    def open(self, bundle: Bundle, threads: int | None = None) -> Mapping[str, EngineSession]:
        """Load every engine of the bundle, by name. ``threads`` compute one engine together; None lets the
        backend choose. Raises BackendError.
        """
        ...
