"""Engines as ONNX Runtime sessions.

Engines run strictly one after another, which two defaults do not expect. Each session owns a thread pool
whose idle threads spin for a while and so take the cores from the next engine: with 12 small engines on 2
cores, 2.0 ms a run against 0.18 ms when spinning stops as a run ends. That matches one global pool (0.16 ms)
without fixing the thread count for the whole process. A lone engine keeps spinning: nobody else wants its
cores. And each session owns an arena for its activations, of which only one is in use at any time: two
engines of a small U-Net at 64x64 latents took 4.4 GB, with one arena for all of them 2.2 GB. That arena
belongs to the process and outlives the bundle; weights are kept out of it, so that closing a bundle frees
them.

Two more defaults hold memory that nobody reads. A freed buffer is kept for a later tensor of its size, so
that a U-Net's first and largest live until its last; and each session lays its activations out in one block,
which the others cannot use. Without both, Stable Diffusion 1.5 at 512x512 takes 0.31 GB beside its weights,
not 1.17, and as many seconds. (Only Python can turn off the first: ONNX Runtime's C interface has no call.)

On a GPU, engines read and write the device's memory (``device.py``); its options are in ``cuda.py``.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import onnxruntime as ort

from dipgo_compile.backends import cuda
from dipgo_compile.backends.affinity import threads_of
from dipgo_compile.backends.base import Buffer, EngineSession, LoadOptions
from dipgo_compile.backends.device import DeviceMemory
from dipgo_compile.backends.low_memory import BriefEngine, return_freed_memory, trim_heap
from dipgo_compile.backends.prepack import EngineCache, can_make
from dipgo_compile.backends.runs import BoundRun, CapturedRun, SendingRun, warn_uncaptured
from dipgo_compile.backends.sums import OUTPUT, sum_inputs, sum_model
from dipgo_compile.bundle import Bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.program import Engine, TensorSpec

PROVIDERS: Mapping[str, tuple[str, str]] = {  # target: execution provider, pip extra that brings it
    "cpu": ("CPUExecutionProvider", "cpu"),
    "cuda": ("CUDAExecutionProvider", "cuda"),
}
ELEMENT_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64"}  # others are called as in numpy
ERRORS_ONLY = 3
SAME_AS_REQUESTED = 1
MOST_AT_ONCE = 4  # engines opened: each needs memory of its own meanwhile


def session_options(
    threads: int | None = None, engines: int = 1, memory: str = "balanced", affinity: str | None = None
) -> ort.SessionOptions:
    """The options every session of this project uses, references in benchmarks included.

    ``threads`` of None is ONNX Runtime's choice, the physical cores. ``engines`` is the number of sessions
    that take turns in this process. ``memory``, ``affinity``: see ``LoadOptions``.
    """
    options = ort.SessionOptions()
    if affinity is not None:
        threads = threads_of(affinity, threads)
        options.add_session_config_entry("session.intra_op_thread_affinities", affinity)
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = ERRORS_ONLY
    options.enable_mem_pattern = options.enable_mem_reuse = False
    if memory == "low":
        return_freed_memory()
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
    """Runs engines in an ONNX Runtime execution provider: ``cpu`` or ``cuda``.

    ``device`` is the kind of memory that engines read and write, if not the process's own; by default that of
    the provider. With ``cpu`` there, the CPU is treated as a device. ``profiles`` is a directory where ONNX
    Runtime notes what the operators of a bundle's engines take: see ``OnnxRuntimeEngine.end_profile``.
    """

    def __init__(
        self, provider: str = "cpu", *, device: str | None = None, profiles: Path | None = None
    ) -> None:
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
        self.device = device or (None if provider == "cpu" else provider)
        self._profiles = profiles
        self._sums: dict[tuple[tuple[float, ...], TensorSpec], EngineSession] = {}
        self._opening = threading.Lock()
        if provider == "cuda":
            ort.preload_dlls()  # those of NVIDIA's packages, where the system has none

    def prepare(self, bundle: Bundle) -> None:
        """See ``Backend.prepare``: the cache of ``prepack.py``, on a CPU."""
        self._prepared(bundle, verify=True)

    def open(self, bundle: Bundle, options: LoadOptions) -> Mapping[str, EngineSession]:
        """Load every engine, packed for this processor where that can be. Raises BackendError when ONNX
        Runtime refuses one.
        """
        program = bundle.plan.program
        cache = self._prepared(bundle, verify=options.verify)
        path = bundle.engine_path if cache is None else cache.path
        taking_turns = sum(len(plan.program.engines) for plan in bundle.plans)
        brief = program.prologue_engines() if options.memory == "low" else frozenset()

        def options_of(engine: Engine) -> ort.SessionOptions:
            chosen = session_options(options.threads, taking_turns, options.memory, options.affinity)
            if cache is not None:
                chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it was done
            if self._profiles is not None:  # ONNX Runtime tells profiles apart by the millisecond alone
                chosen.enable_profiling = True
                chosen.profile_file_prefix = str(self._profiles / bundle.plan.engine_files[engine.name])
            return chosen

        def open_engine(engine: Engine, chosen: ort.SessionOptions) -> EngineSession:
            return self._session(
                engine.name,
                path(engine.name),
                engine.inputs,
                engine.outputs,
                chosen,
                graphs=options.cuda_graphs and self._captures,
            )

        def opener(engine: Engine) -> Callable[[], EngineSession]:
            now = partial(open_engine, engine, options_of(engine))
            return partial(BriefEngine, now) if engine.name in brief else now

        openers = [opener(engine) for engine in program.engines]
        with ThreadPoolExecutor(self._at_once(options)) as pool:
            sessions = list(pool.map(lambda made: made(), openers))
        trim_heap()
        return {engine.name: session for engine, session in zip(program.engines, sessions, strict=True)}

    def _at_once(self, options: LoadOptions) -> int:
        """How many engines are opened at once. Opening one is work for one core, and the more of it the more
        weights it has, though they are packed.
        """
        if self.provider != PROVIDERS["cpu"][0] or options.memory == "low":
            return 1
        return min(options.threads or os.cpu_count() or 1, MOST_AT_ONCE)

    def memory(self) -> DeviceMemory | None:
        """See ``Backend.memory``."""
        return None if self.device is None else DeviceMemory(self.device, self._sum_engine)

    def _sum_engine(self, signs: tuple[float, ...], spec: TensorSpec) -> EngineSession:
        """One of each kind, for all sessions."""
        with self._opening:
            engine = self._sums.get((signs, spec))
            if engine is None:
                options, model = session_options(engines=2), sum_model(signs, spec)
                engine = self._session(OUTPUT, model, sum_inputs(len(signs)), (OUTPUT,), options)
                self._sums[signs, spec] = engine
            return engine

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

    def _save(self, engine: str, portable: Path | bytes, target: Path, entries: Mapping[str, str]) -> None:
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
        *,
        cuda_graphs: bool = False,
    ) -> EngineSession:
        """See ``Backend.open_file``."""
        options, graphs = session_options(threads, memory=memory), cuda_graphs and self._captures
        return self._session(name, file, inputs, outputs, options, graphs=graphs)

    @property
    def _captures(self) -> bool:
        return self.provider == PROVIDERS["cuda"][0]

    def _session(
        self,
        name: str,
        file: Path | bytes,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        options: ort.SessionOptions,
        *,
        graphs: bool = False,
    ) -> OnnxRuntimeEngine:
        """``graphs``: runs are captured, if ONNX Runtime can capture this engine's."""
        try:
            session = _open(name, file, options, self.provider, graphs=graphs)
        except BackendError as error:
            if not graphs:
                raise
            session, graphs = _open(name, file, options, self.provider), False
            warn_uncaptured(name, error)
        _check_started(session, self.provider)
        return OnnxRuntimeEngine(name, session, inputs, outputs, graphs=graphs)


def _open(
    name: str, file: Path | bytes, options: ort.SessionOptions, provider: str, *, graphs: bool = False
) -> ort.InferenceSession:
    told = dict(cuda.provider_options(graphs=graphs)) if provider == PROVIDERS["cuda"][0] else {}
    try:
        model = file if isinstance(file, bytes) else str(file)
        return ort.InferenceSession(model, options, providers=[(provider, told)], enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises a class per status code, without a common base
        where = None if isinstance(file, bytes) else file
        raise BackendError(f"ONNX Runtime refuses the engine {name!r}: {error}", where=where) from error


def _check_started(session: ort.InferenceSession, provider: str) -> None:
    """Where a library of the provider is missing, ONNX Runtime logs a line and takes the CPU."""
    if provider not in session.get_providers():
        raise BackendError(
            f"the {provider} of the installed onnxruntime does not start on this machine",
            available=session.get_providers(),
            mend='see if nvidia-smi runs; pip install "dipgo-compile[cuda]"; or load with provider="cpu"',
        )


class OnnxRuntimeEngine:
    """One session. Bindings wrap the caller's memory: on a CPU nothing is copied in either direction. On a
    device that goes for tensors of its memory; arrays are copied there at every run, and back.
    """

    def __init__(
        self,
        name: str,
        session: ort.InferenceSession,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        *,
        graphs: bool = False,
    ) -> None:
        """``graphs``: the session was opened to capture runs."""
        self._name, self._session, self._inputs, self._outputs = name, session, inputs, outputs
        self._graphs = itertools.count(1) if graphs else None
        self._on_device = session.get_providers()[0] != PROVIDERS["cpu"][0]
        self._turn = threading.Lock()  # of captured runs
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

    def bind(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer | None]) -> Callable[[], None]:
        """See ``EngineSession.bind``."""
        binding = self._session.io_binding()
        names = (*self._inputs, *self._outputs)
        given = {
            name: buffer
            for name, buffer in zip(names, (*inputs, *outputs), strict=True)
            if buffer is not None
        }
        values = {name: self._value(name, buffer) for name, buffer in given.items()}
        for name, value in values.items():
            bind = binding.bind_ortvalue_input if name in self._inputs else binding.bind_ortvalue_output
            bind(name, value)
        arrays = {name for name, buffer in given.items() if not isinstance(buffer, ort.OrtValue)}
        bound = (self._name, self._session, binding, tuple(values.values()))
        if self._graphs is not None and not arrays:
            return CapturedRun(*bound, next(self._graphs), self._turn)
        if self._on_device and not arrays.isdisjoint(self._inputs):
            return SendingRun(*bound, [(name, values[name]) for name in self._inputs if name in arrays])
        return BoundRun(*bound)

    def end_profile(self) -> Path:
        """The file in which ONNX Runtime noted every run and operator so far, as events of Chrome's trace
        format. For engines that were opened with ``profiles``, and once: later runs aren't noted.
        """
        return Path(self._session.end_profiling())

    def _value(self, name: str, given: Buffer) -> ort.OrtValue:
        """The buffer as ONNX Runtime knows it. Refuses one of another type or shape than the graph declares,
        as ONNX Runtime would, but not before the engine runs.
        """
        value = given if isinstance(given, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(given)
        node, shape = self._nodes[name], tuple(value.shape())
        fits = len(node.shape) == len(shape) and all(
            size == found for size, found in zip(node.shape, shape, strict=True) if isinstance(size, int)
        )
        if value.data_type() != node.type or not fits:
            raise BackendError(
                f"{name!r} of the engine {self._name!r} is {_dtype(node.type)}{tuple(node.shape)}, "
                f"not {_dtype(value.data_type())}{shape}",
                mend="build the bundle again",
            )
        return value


def _dtype(kind: str) -> str:
    """From ONNX Runtime's name of a type, such as ``tensor(float)``."""
    return ELEMENT_TYPES.get(kind, kind.removeprefix("tensor(").removesuffix(")"))
