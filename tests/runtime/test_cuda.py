"""What ONNX Runtime is told for a GPU: options, and runs that are numbered for capture. No GPU runs here; run
options of CUDA graphs mean nothing to the CPU provider, which takes them and computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
import toy

from dipgo_compile.backends import cuda
from dipgo_compile.backends.base import Buffer
from dipgo_compile.backends.device import DeviceMemory
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeEngine
from dipgo_compile.backends.registry import check_bundle
from dipgo_compile.backends.runs import BoundRun, CapturedRun, SendingRun
from dipgo_compile.bundle import open_bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.executor import Session
from dipgo_compile.plan import Target
from dipgo_compile.runtime import Runtime

CUDA = "CUDAExecutionProvider"
needs_no_cuda = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this package has CUDA")


def here() -> DeviceMemory:
    """Memory of a device that is this CPU."""
    memory = OnnxRuntimeBackend(device="cpu").memory()
    assert memory is not None
    return memory


class Remembering:
    """An engine that keeps what it was bound to."""

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine, self.runs = engine, []

    def bind(self, inputs: Sequence[Buffer], outputs: Sequence[Buffer | None]) -> Callable[[], None]:
        self.runs.append(self._engine.bind(inputs, outputs))
        return self.runs[-1]


def opened(path: Path, *, graphs: bool) -> dict[str, Remembering]:
    bundle = open_bundle(path)
    return {
        engine.name: Remembering(
            OnnxRuntimeEngine(
                engine.name,
                ort.InferenceSession(str(bundle.engine_path(engine.name))),
                engine.inputs,
                engine.outputs,
                graphs=graphs,
            )
        )
        for engine in bundle.plan.program.engines
    }


def graph_of(run: Any) -> str:
    return run.options.get_run_config_entry(cuda.GRAPH)


def test_every_run_of_a_plan_is_captured_under_a_number_of_its_own(pristine: Path, runtime: Runtime) -> None:
    engines = opened(pristine, graphs=True)
    session = Session(runtime.plan, engines, here())
    image = toy.image()
    given = (image["latents"], {"text": image["text"]})
    expected = runtime.session().denoise(*given, draws=[image["draw"]])
    for _ in range(2):
        np.testing.assert_array_equal(session.denoise(*given, draws=[image["draw"]]), expected)
    numbers = {name: [graph_of(run) for run in engine.runs] for name, engine in engines.items()}
    assert numbers == {"early": ["1", "2"], "late": ["1", "2", "3"]}
    Session(runtime.plan, engines, here())  # another thread's, with other addresses
    assert [graph_of(run) for run in engines["early"].runs] == ["1", "2", "3", "4"]


def test_runs_on_arrays_and_of_other_sessions_are_not_captured(pristine: Path, runtime: Runtime) -> None:
    for graphs, memory in ((True, None), (False, here())):
        engines = opened(pristine, graphs=graphs)
        Session(runtime.plan, engines, memory)
        assert {type(run) for engine in engines.values() for run in engine.runs} == {BoundRun}


def test_options_of_the_provider() -> None:
    on, off = cuda.provider_options(graphs=True), cuda.provider_options(graphs=False)
    assert {key for key in on if on[key] != off[key]} == {"enable_cuda_graph"}
    assert (on["enable_cuda_graph"], off["enable_cuda_graph"]) == ("1", "0")
    assert on["use_tf32"] == "0"
    assert all(isinstance(value, str) for value in on.values())


@pytest.fixture
def picky(tmp_path: Path) -> ort.InferenceSession:
    """``y = x[i]``, which fails for an ``i`` beyond the end."""
    text = """
    <ir_version: 10, opset_import: ["" : 23]>
    g (float[4] x, int64[1] i) => (float[1] y) { y = Gather(x, i) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "e.onnx")
    return ort.InferenceSession(str(tmp_path / "e.onnx"))


def test_where_a_capture_fails_the_run_goes_on_without(picky: ort.InferenceSession) -> None:
    memory = here()
    x, index = memory.constant(np.arange(4, dtype=np.float32)), memory.constant(np.array([9]))
    y = memory.constant(np.zeros(1, np.float32))
    run = OnnxRuntimeEngine("e", picky, ("x", "i"), ("y",), graphs=True).bind([x, index], [y])
    assert isinstance(run, CapturedRun) and graph_of(run) == "1"
    with (
        pytest.warns(RuntimeWarning, match="'e' runs without a CUDA graph"),
        pytest.raises(BackendError, match="the engine 'e' failed"),  # the engine itself is at fault here
    ):
        run()
    assert graph_of(run) == str(cuda.NO_GRAPH)
    memory.upload(np.array([3]), index)
    run()
    assert y.numpy() == [3.0]


def test_captured_runs_of_an_engine_take_turns(picky: ort.InferenceSession) -> None:
    memory, turn = here(), threading.Lock()
    values = [memory.constant(np.zeros(4, np.float32)), memory.constant(np.array([3]))]
    binding = picky.io_binding()
    for name, value in zip(("x", "i"), values, strict=True):
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y")
    run = CapturedRun("e", picky, binding, values, 1, turn)
    with turn:
        waiting = threading.Thread(target=run)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join()


def test_arrays_are_read_at_every_run(picky: ort.InferenceSession) -> None:
    """ONNX Runtime copies an array to a device when it is bound, so it has to be bound again."""
    x, index, y = np.arange(4, dtype=np.float32), np.array([1]), np.zeros(1, np.float32)
    values = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in (("x", x), ("i", index), ("y", y))}
    binding = picky.io_binding()
    binding.bind_ortvalue_output("y", values["y"])
    run = SendingRun("e", picky, binding, list(values.values()), [("x", values["x"]), ("i", values["i"])])
    for place in (1, 3):
        index[0] = place
        run()
        assert y == [place]


@needs_no_cuda
def test_a_package_without_cuda_says_which_to_install(pristine: Path) -> None:
    with pytest.raises(BackendError, match="has no CUDAExecutionProvider") as caught:
        Runtime.load(pristine, provider="cuda")
    assert 'pip install "dipgo-compile[cuda]"' in str(caught.value)


@needs_no_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_replaced(pristine: Path) -> None:
    """ONNX Runtime says a word and takes the CPU. No graph is missed then, but everything."""
    backend = OnnxRuntimeBackend("cpu")
    backend.provider = CUDA
    with pytest.raises(BackendError, match="does not start on this machine") as caught:
        file = open_bundle(pristine).engine_path("early")
        backend.open_file("early", file, ("x", "t"), ("h", "spare"), cuda_graphs=True)
    assert caught.value.available == ("CPUExecutionProvider",)
    assert "nvidia-smi" in str(caught.value)


@pytest.mark.parametrize(
    ("built", "loaded"),
    [("fp32", Target("cuda", "fp16")), ("fp16", Target("cuda", "fp32")), ("fp16", Target("cpu", "fp32"))],
)
def test_graphs_of_one_type_are_not_loaded_as_the_other(built: str, loaded: Target) -> None:
    with pytest.raises(BackendError, match=f"built for {built}") as caught:
        check_bundle(Target("cuda", built), loaded)
    assert caught.value.mend == f"build it with --precision {loaded.precision}"
