"""What a backend must offer.

A backend computes engines; it knows nothing of masks, schedulers or the
order of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dipgo_compile.bundle import Bundle
from dipgo_compile.errors import InputError
from dipgo_compile.program import Array

MEMORY_MODES = ("low", "balanced", "fast")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How engines are opened.

    ``threads`` compute one engine together; None lets the backend choose. ``memory``: with ``low``, the
    memory of activations goes back to the system as soon as they are read, and is asked for again; with
    ``balanced``, it is kept, once for all engines; with ``fast``, weights and activations are brought into
    memory before the first image. ``verify``: files that a backend keeps beside a bundle are hashed.
    Raises InputError.
    """

    threads: int | None = None
    memory: str = "balanced"
    verify: bool = True

    def __post_init__(self) -> None:
        if self.memory not in MEMORY_MODES:
            raise InputError(f"there is no memory mode {self.memory!r}", available=MEMORY_MODES)
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads cannot compute anything", mend="use 1 or more")


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
    """An execution provider in one precision. ``registry.py`` lists them."""

    def prepare(self, bundle: Bundle) -> bool:
        """Keep beside the bundle what makes opening it faster on this machine, unless it is there and
        unaltered. Opening does so too; a build does it so that nobody waits then.

        Answers whether it is there now: a disk may be full, or the bundle in a place where nothing can be
        written. Raises BackendError for an engine that can't be opened.
        """
        ...

    def open(self, bundle: Bundle, options: LoadOptions) -> Mapping[str, EngineSession]:
        """Load every engine of the bundle, by name. Raises BackendError."""
        ...

    def open_file(
        self,
        name: str,
        file: Path,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        threads: int | None = None,
        memory: str = "balanced",
    ) -> EngineSession:
        """Load one ONNX file, with the options that a lone engine gets; see ``LoadOptions`` for ``threads``
        and ``memory``. ``name`` is for messages; ``inputs`` and ``outputs`` are all tensors of the graph, in
        the order of ``bind``. Raises BackendError.
        """
        ...
