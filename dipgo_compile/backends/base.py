"""What a backend must offer.

A backend computes engines; it knows nothing of masks, schedulers or the
order of a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from dipgo_compile.backends.affinity import threads_of
from dipgo_compile.bundle import Bundle
from dipgo_compile.errors import InputError
from dipgo_compile.program import Array, TensorSpec

MEMORY_MODES = ("low", "balanced", "fast")

Buffer: TypeAlias = Any
"""What an engine reads or writes: an array, or what the backend's own ``Memory`` makes."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How engines are opened.

    ``threads`` compute one engine together; None lets the backend choose. ``memory``: with ``low``, the
    memory of activations goes back to the system as soon as they are read, and engines that run once an image
    are opened for that alone; with ``balanced``, it is kept, once for all engines; with ``fast``, weights and
    activations are brought into memory before the first image. ``low`` changes how the whole process frees
    memory. ``verify``: files that a backend keeps beside a bundle are hashed. ``cuda_graphs``: on a GPU, runs
    are captured once and replayed. ``affinity`` places the threads on processors: see
    ``backends/affinity.py``. Raises InputError.
    """

    threads: int | None = None
    memory: str = "balanced"
    verify: bool = True
    cuda_graphs: bool = True
    affinity: str | None = None

    def __post_init__(self) -> None:
        if self.memory not in MEMORY_MODES:
            raise InputError(f"there is no memory mode {self.memory!r}", available=MEMORY_MODES)
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads cannot compute anything", mend="use 1 or more")
        if self.affinity is not None:
            threads_of(self.affinity, self.threads)


class EngineSession(Protocol):
    """One loaded engine. It may be bound any number of times; runs of several threads may overlap."""

    def bind(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer | None]) -> Callable[[], None]:
        """A run with fixed buffers, in the order of the engine's tensors: calling it reads ``inputs`` as they
        then are and fills ``outputs``. An output of None is not wanted. Arrays are contiguous; all buffers
        outlive the result.

        The result raises BackendError when the engine fails.
        """
        ...


class Memory(Protocol):
    """The memory of the device that a backend computes on, for one session of a plan."""

    def place(self, offset: int, spec: TensorSpec) -> Buffer:
        """A tensor at ``offset`` bytes of the session's arena; those that overlap may share memory, or not.
        Its address stays.
        """
        ...

    def constant(self, array: Array) -> Buffer:
        """A tensor outside the arena that holds what ``array`` does."""
        ...

    def upload(self, array: Array, buffer: Buffer) -> None:
        """Copy an array into a tensor of its shape and dtype; done when it returns."""
        ...

    def download(self, buffer: Buffer, array: Array) -> None:
        """Copy a tensor into an array of its shape and dtype; done when it returns."""
        ...

    def sum(
        self, output: Buffer, spec: TensorSpec, terms: Sequence[tuple[Buffer, float]]
    ) -> Callable[[], None]:
        """A step that writes the sum of two or more tensors, each times 1 or -1, in their order, to
        ``output``. All are like ``spec``.
        """
        ...


class Backend(Protocol):
    """An execution provider in one precision. ``registry.py`` lists them."""

    def prepare(self, bundle: Bundle) -> None:
        """Keep beside the bundle what makes opening it faster on this machine, unless it is there and
        unaltered, or can't be written. Opening does so too; a build does it so that nobody waits then. Raises
        BackendError for an engine that can't be opened.
        """
        ...

    def open(self, bundle: Bundle, options: LoadOptions) -> Mapping[str, EngineSession]:
        """Load every engine of the bundle, by name. Raises BackendError."""
        ...

    def memory(self) -> Memory | None:
        """A new arena where the engines compute, or None where that is the process's own memory and engines
        are bound to arrays. It raises BackendError where the device has not the room.
        """
        ...

    def open_file(
        self,
        name: str,
        file: Path,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        threads: int | None = None,
        memory: str = "balanced",
        *,
        cuda_graphs: bool = False,
    ) -> EngineSession:
        """Load one ONNX file, with the options that a lone engine gets; see ``LoadOptions`` for ``threads``,
        ``memory`` and ``cuda_graphs``. ``name`` is for messages; ``inputs`` and ``outputs`` are all tensors
        of the graph, in the order of ``bind``. Raises BackendError.
        """
        ...
