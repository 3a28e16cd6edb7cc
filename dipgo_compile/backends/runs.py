"""Bound runs of an ONNX Runtime session: what ``EngineSession.bind`` answers with."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from dipgo_compile.backends.cuda import GRAPH, NO_GRAPH
from dipgo_compile.errors import BackendError


class BoundRun:
    """Reads and writes where it was bound. Raises BackendError when the engine fails."""

    __slots__ = ("_binding", "_keep", "_name", "_run")

    def __init__(self, name: str, session: ort.InferenceSession, binding: Any, keep: Sequence[Any]) -> None:
        self._name, self._run, self._binding, self._keep = name, session.run_with_iobinding, binding, keep

    def __call__(self) -> None:
        try:
            self._run(self._binding)
        except Exception as error:
            raise BackendError(f"the engine {self._name!r} failed: {error}") from error


class SendingRun(BoundRun):
    """Sends arrays to a device first: ONNX Runtime copies an input when it is bound, and only then."""

    __slots__ = ("_arrays",)

    def __init__(
        self,
        name: str,
        session: ort.InferenceSession,
        binding: Any,
        keep: Sequence[Any],
        arrays: Sequence[tuple[str, ort.OrtValue]],
    ) -> None:
        """``arrays``: the inputs that are not in the device's memory, by name."""
        super().__init__(name, session, binding, keep)
        self._arrays = arrays

    def __call__(self) -> None:
        for name, value in self._arrays:
            self._binding.bind_ortvalue_input(name, value)
        super().__call__()


class CapturedRun(BoundRun):
    """Replays a CUDA graph, which ONNX Runtime captures the first time. Where that fails it runs without one
    from then on. ``turn`` is held while it runs.
    """

    __slots__ = ("_plain", "_turn", "options")

    def __init__(
        self,
        name: str,
        session: ort.InferenceSession,
        binding: Any,
        keep: Sequence[Any],
        graph: int,
        turn: threading.Lock,
    ) -> None:
        super().__init__(name, session, binding, keep)
        self.options, self._plain, self._turn = graph_options(graph), False, turn

    def __call__(self) -> None:
        with self._turn:
            try:
                self._run(self._binding, self.options)
            except Exception as error:
                if self._plain:
                    raise BackendError(f"the engine {self._name!r} failed: {error}") from error
                self.options, self._plain, failure = graph_options(NO_GRAPH), True, error
            else:
                return
        warn_uncaptured(self._name, failure)
        self()


def graph_options(graph: int) -> ort.RunOptions:
    """For the run that ``graph`` numbers among those of its session; ``NO_GRAPH``: it is not captured."""
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH, str(graph))
    return options


def warn_uncaptured(engine: str, error: Exception) -> None:
    """Say that an engine is slower than it might be, and why."""
    message = f"the engine {engine!r} runs without a CUDA graph: {error}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)
