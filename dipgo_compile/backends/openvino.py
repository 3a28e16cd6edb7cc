"""Engines as OpenVINO compiled models, on the CPU, in float32 or bfloat16.

The engine files are the ones that ONNX Runtime reads: OpenVINO's reader knows opset 23 with its Attention,
and external data, which it maps. bfloat16 is how it computes, not what it is given: weights are converted
when an engine is compiled, and inputs and outputs stay float32, so that the schedule runs in float32.

Every bound run has an inference request of its own. Of a compiled model with one stream, requests share the
activations and wait for each other: 60 requests of one engine took no more memory than one, runs of several
threads may overlap, and setting all tensors anew at each call of a single request was no faster. What a
request would own are the buffers of outputs that nobody wants; those are one for all requests of an engine,
because nobody reads them. Activations are not shared between engines, nor are packed weights: with the memory
mode ``low``, an engine gives its activations back after each run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import openvino as ov

from dipgo_compile.backends.base import EngineSession, LoadOptions
from dipgo_compile.bundle import Bundle
from dipgo_compile.errors import BackendError, InputError
from dipgo_compile.program import Array

PRECISIONS: Mapping[str, ov.Type] = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}
DEVICE = "CPU"


def compile_options(precision: str, threads: int | None = None) -> dict[str, object]:
    """The options every model of this project is compiled with. ``threads`` of None is OpenVINO's choice, the
    physical cores.
    """
    options: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        "NUM_STREAMS": 1,
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return options


class OpenVinoBackend:
    """Runs engines in OpenVINO's CPU device, in the precision ``fp32`` or ``bf16``."""

    def __init__(self, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise BackendError(f"OpenVINO is not given the precision {precision!r}", available=PRECISIONS)
        self.precision = precision
        self._core = ov.Core()
        self._core.set_property({"ENABLE_MMAP": True})

    def prepare(self, bundle: Bundle) -> None:
        """See ``Backend.prepare``. Nothing is kept: OpenVINO's own cache would hold the weights once for each
        engine.
        """

    def open(self, bundle: Bundle, options: LoadOptions) -> Mapping[str, EngineSession]:
        """Compile every engine. Raises BackendError when OpenVINO refuses one, InputError for an affinity."""
        if options.affinity is not None:
            raise InputError(
                "OpenVINO places its threads itself: it takes no affinity",
                mend="leave the affinity out, or place the process with taskset",
            )
        release = options.memory == "low"
        opened: dict[str, EngineSession] = {}
        for engine in bundle.plan.program.engines:
            compiled = self._compile(engine.name, bundle.engine_path(engine.name), options.threads)
            opened[engine.name] = OpenVinoEngine(
                engine.name, compiled, engine.inputs, engine.outputs, release=release
            )
        return opened

    def memory(self) -> None:
        """See ``Backend.memory``: engines compute in the process's own."""

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
        compiled = self._compile(name, file, threads)
        return OpenVinoEngine(name, compiled, inputs, outputs, release=memory == "low")

    def _compile(self, name: str, file: Path, threads: int | None) -> ov.CompiledModel:
        try:
            model = self._core.read_model(file)
            compiled = self._core.compile_model(model, DEVICE, compile_options(self.precision, threads))
            chosen = compiled.get_property("INFERENCE_PRECISION_HINT")
        except Exception as error:  # OpenVINO raises RuntimeErrors of several lines
            raise BackendError(
                f"OpenVINO refuses the engine {name!r}: {_last_line(error)}",
                where=file,
                mend="build the bundle for it: dipgo-compile build --backend openvino",
            ) from error
        if chosen != PRECISIONS[self.precision]:
            raise BackendError(
                f"this processor does not compute in {self.precision}",
                available=self._core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"),
                mend='load the bundle with precision="fp32", or build it with --precision fp32',
            )
        return compiled


class OpenVinoEngine:
    """One compiled model. Requests work on the caller's memory: what is writable isn't copied."""

    def __init__(
        self,
        name: str,
        compiled: ov.CompiledModel,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        *,
        release: bool = False,
    ) -> None:
        """``release`` gives activations back to the system after each run."""
        self._name, self._compiled, self._release = name, compiled, release
        self._inputs = _ports(name, "inputs", inputs, compiled.inputs)
        self._outputs = _ports(name, "outputs", outputs, compiled.outputs)
        self._unwanted: dict[int, ov.Tensor] = {}
        self._turn = threading.Lock()  # no memory is given back while a request of another thread runs

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array | None]) -> Callable[[], None]:
        """See ``EngineSession.bind``. Read-only inputs, a plan's constants, are copied: OpenVINO shares
        writable memory only.
        """
        try:
            request = self._compiled.create_infer_request()
            for port, array in zip(self._inputs, inputs, strict=True):
                request.set_tensor(port, ov.Tensor(array, shared_memory=array.flags.writeable))
            for index, (port, output) in enumerate(zip(self._outputs, outputs, strict=True)):
                if output is None:
                    tensor = self._unwanted.setdefault(index, request.get_tensor(port))
                else:
                    tensor = ov.Tensor(output, shared_memory=True)
                request.set_tensor(port, tensor)
        except RuntimeError as error:
            raise BackendError(f"the engine {self._name!r} cannot be bound: {_last_line(error)}") from error
        run = _BoundRun(self._name, request, (*inputs, *outputs))
        return partial(self._run_and_release, run) if self._release else run

    def _run_and_release(self, run: _BoundRun) -> None:
        with self._turn:
            run()
            self._compiled.release_memory()


class _BoundRun:
    __slots__ = ("_keep", "_name", "_request")

    def __init__(self, name: str, request: ov.InferRequest, keep: tuple[Array | None, ...]) -> None:
        self._name, self._request, self._keep = name, request, keep

    def __call__(self) -> None:
        try:
            self._request.infer()
        except RuntimeError as error:
            raise BackendError(f"the engine {self._name!r} failed: {_last_line(error)}") from error


def _ports(
    name: str, kind: str, wanted: tuple[str, ...], ports: Sequence[ov.ConstOutput]
) -> list[ov.ConstOutput]:
    """The model's ports in the order of the plan."""
    found = {tensor: port for port in ports for tensor in port.names}
    if len(ports) != len(wanted) or not found.keys() >= set(wanted):
        raise BackendError(
            f"the engine {name!r} does not have the {kind} of the plan: {', '.join(wanted)}",
            available=sorted(found),
            mend="build the bundle again",
        )
    return [found[tensor] for tensor in wanted]


def _last_line(error: Exception) -> str:
    """The reason; the lines before it name places in OpenVINO's source."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
