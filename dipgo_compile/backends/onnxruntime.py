"""Engines as ONNX Runtime sessions.

Engines run strictly one after another, which two defaults do not expect. Each session owns a thread pool
whose idle threads spin for a while and so take the cores from the next engine: with 12 small engines on 2
cores, 2.0 ms a run against 0.18 ms when spinning stops as a run ends. That matches one global pool (0.16 ms)
without fixing the thread count for the whole process. A lone engine keeps spinning: nobody else wants its
cores. And each session owns an arena for its activations, of which only one is in use at any time: two
engines of a small U-Net at 64x64 latents took 4.4 GB, with one arena for all of them 2.2 GB. That arena
belongs to the process and outlives the bundle; weights are kept out of it, so that closing a bundle frees
them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from dipgo_compile.backends.base import EngineSession, LoadOptions
from dipgo_compile.backends.prepack import EngineCache, can_make
from dipgo_compile.bundle import Bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.program import Array

PROVIDERS: Mapping[str, tuple[str, str]] = {  # target: execution provider, pip extra that brings it
    "cpu": ("CPUExecutionProvider", "cpu"),
    "cuda": ("CUDAExecutionProvider", "cuda"),
}
ELEMENT_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}  # others are called as in numpy
ERRORS_ONLY = 3
SAME_AS_REQUESTED = 1


def session_options(
    threads: int | None = None, engines: int = 1, memory: str = "balanced"
) -> ort.SessionOptions:
    """The options every session of this project uses, references in benchmarks included.

    ``threads`` of None is ONNX Runtime's choice, the physical cores. ``engines`` is the number of sessions
    that take turns in this process. ``memory``: see ``LoadOptions``.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = ERRORS_ONLY
    if memory == "low":
        options.enable_cpu_mem_arena = False
    else:
        _register_shared_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if engines > 1:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


@functools.cache
def _register_shared_arena() -> None:
    """One arena for the activations of all sessions, which grows by what is asked for: doubling would waste
    half.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": SAME_AS_REQUESTED}))


class OnnxRuntimeBackend:
    """Runs engines in an ONNX Runtime execution provider: ``cpu`` or ``cuda``."""

    def __init__(self, provider: str = "cpu") -> None:
        if provider not in PROVIDERS:
            raise BackendError(f"unknown execution provider {provider!r}", available=PROVIDERS)
        self.provider, extra = PROVIDERS[provider]
        available = ort.get_available_providers()
        if self.provider not in available:
            raise BackendError(
                f"the installed onnxruntime has no {self.provider}",
                available=available,
                mend=f'pip install "dipgo-compile[{extra}]", or load with provider="cpu"',
            )

    def prepare(self, bundle: Bundle) -> bool:
        """See ``Backend.prepare``: the cache of ``prepack.py``, on a CPU."""
        return self._prepared(bundle, verify=True) is not None

    def open(self, bundle: Bundle, options: LoadOptions) -> Mapping[str, EngineSession]:
        """Load every engine, packed for this processor where that can be. Raises BackendError when ONNX
        Runtime refuses one.
        """
        engines = bundle.plan.program.engines
        cache = self._prepared(bundle, verify=options.verify)
        path = bundle.engine_path if cache is None else cache.path
        chosen = session_options(options.threads, len(engines), options.memory)
        if cache is not None:
            chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was done
        return {
            engine.name: self._session(engine.name, path(engine.name), engine.inputs, engine.outputs, chosen)
            for engine in engines
        }

    def _prepared(self, bundle: Bundle, *, verify: bool) -> EngineCache | None:
        """The cache, made if need be; None where there can be none."""
        if self.provider != PROVIDERS["cpu"][0]:
            return None
        cache = EngineCache.of(bundle)
        if cache.check(contents=verify):
            return cache
        if not can_make():
            return None
        try:
            cache.make(self._save)
        except OSError as error:
            reason = error.strerror or error
            warnings.warn(
                f"engines are opened slowly: they cannot be kept in {cache.directory}: {reason}",
                RuntimeWarning,
                stacklevel=4,
            )
            return None
        return cache

    def _save(self, engine: str, portable: Path, target: Path, entries: Mapping[str, str]) -> None:
        options = session_options()
        options.optimized_model_filepath = str(target)
        for name, value in entries.items():
            options.add_session_config_entry(name, value)
        _open(engine, portable, options, self.provider)

    def open_file(
        self,
        name: str,
        file: Path,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        threads: int | None = None,
        memory: str = "balanced",
    ) -> EngineSession:
        """See ``Backend.open_file``."""
        return self._session(name, file, inputs, outputs, session_options(threads, memory=memory))

    def _session(
        self,
        name: str,
        file: Path,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        options: ort.SessionOptions,
    ) -> EngineSession:
        session = _open(name, file, options, self.provider)
        return OnnxRuntimeEngine(name, session, inputs, outputs)


def _open(name: str, file: Path, options: ort.SessionOptions, provider: str) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(str(file), options, providers=[provider])
    except Exception as error:  # ONNX Runtime raises a class per status code, without a common base
        raise BackendError(f"ONNX Runtime refuses the engine {name!r}: {error}", where=file) from error


class OnnxRuntimeEngine:
    """One session. Bindings wrap the caller's memory: on a CPU nothing is copied in either direction."""

    def __init__(
        self, name: str, session: ort.InferenceSession, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> None:
        self._name, self._session, self._inputs, self._outputs = name, session, inputs, outputs
        self._nodes = {node.name: node for node in (*session.get_inputs(), *session.get_outputs())}
        for kind, wanted, nodes in (
            ("inputs", inputs, session.get_inputs()),
            ("outputs", outputs, session.get_outputs()),
        ):
            found = [node.name for node in nodes]
            if sorted(found) != sorted(wanted):
                raise BackendError(
                    f"the engine {name!r} does not have the {kind} of the plan: {', '.join(wanted)}",
                    available=found,
                    mend="build the bundle again",
                )

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Callable[[], None]:
        """See ``EngineSession.bind``."""
        binding = self._session.io_binding()
        for name, array in zip((*self._inputs, *self._outputs), (*inputs, *outputs), strict=True):
            if array is not None:
                self._check(name, array)
        values = []  # OrtValues keep the arrays alive, the binding does not keep the OrtValues
        for name, array in zip(self._inputs, inputs, strict=True):
            values.append(ort.OrtValue.ortvalue_from_numpy(array))
            binding.bind_ortvalue_input(name, values[-1])
        for name, output in zip(self._outputs, outputs, strict=True):
            if output is not None:
                values.append(ort.OrtValue.ortvalue_from_numpy(output))
                binding.bind_ortvalue_output(name, values[-1])
        return _BoundRun(self._name, self._session, binding, values)

    def _check(self, name: str, array: Array) -> None:
        """Refuse an array of another type or shape than the graph declares. ONNX Runtime would as well, but
        not before the engine runs.
        """
        node = self._nodes[name]
        dtype = ELEMENT_TYPES.get(node.type, node.type.removeprefix("tensor(").removesuffix(")"))
        fits = len(node.shape) == array.ndim and all(
            size == found
            for size, found in zip(node.shape, array.shape, strict=True)
            if isinstance(size, int)
        )
        if array.dtype != dtype or not fits:
            raise BackendError(
                f"{name!r} of the engine {self._name!r} is {dtype}{tuple(node.shape)}, "
                f"not {array.dtype}{array.shape}",
                mend="build the bundle again",
            )


class _BoundRun:
    __slots__ = ("_binding", "_keep", "_name", "_run")

    def __init__(self, name: str, session: ort.InferenceSession, binding: Any, keep: list[Any]) -> None:
        self._name, self._run, self._binding, self._keep = name, session.run_with_iobinding, binding, keep

    def __call__(self) -> None:
        try:
            self._run(self._binding)
        except Exception as error:
            raise BackendError(f"the engine {self._name!r} failed: {error}") from error
