"""What only a GPU can show: ``make gpu``. Everything up to it is tested on a CPU, in
tests/runtime/test_device.py and test_cuda.py.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from dipgo_compile.backends.base import LoadOptions
from dipgo_compile.backends.device import DeviceMemory
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.bundle import open_bundle
from dipgo_compile.compare import compare
from dipgo_compile.executor import Session
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.float16 import in_precision
from dipgo_compile.mask import Mask, ModelRef
from dipgo_compile.measure.comparison import TOLERANCES, relative_l2
from dipgo_compile.measure.example import Example, example_inputs
from dipgo_compile.program import Array
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.running.residence import touched_by_device, touched_by_host
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedules.schedulers import scheduler_ref
from tests.compiler.reference import assert_parity
from tests.families.tiny import make

PRECISIONS = ("fp32", "fp16")
STEPS = 6


def _missing() -> str | None:
    """Why these tests cannot run here."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return 'onnxruntime has no CUDA: pip install "dipgo-compile[cuda]" in the place of cpu'
    program = shutil.which("nvidia-smi")
    if program is None or subprocess.run([program, "-L"], capture_output=True, check=False).returncode:
        return "nvidia-smi finds no GPU"
    return None


MISSING = _missing()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]


def options(precision: str) -> BuildOptions:
    return BuildOptions(provider="cuda", precision=precision)


def random_mask(exported: Exported, granularity: str, seed: int) -> Mask:
    """Rows of every density; a transformer's whole blocks reuse residuals."""
    model, generator = exported.model, random.Random(seed)
    blocks, schedule = model.blocks(granularity), scheduler_ref(None, model, STEPS)
    densities = [1.0, *(generator.choice([0.0, 0.3, 0.7, 1.0]) for _ in schedule.timesteps[1:])]
    keep = tuple(tuple(generator.random() < density for _ in blocks) for density in densities)
    residual = granularity == "block" and "Transformer" in model.class_name
    return Mask(
        ModelRef(model.source, model.class_name, model.config_sha256),
        schedule,
        blocks,
        keep,
        reuse="residual" if residual else "output",
        provenance={"blocks": granularity},
    )


@pytest.fixture(scope="module", params=["sd15", "lcm-sdxl", "dit", "pixart-alpha"])
def plain(request: pytest.FixtureRequest) -> Exported:
    """A denoiser of a few thousand weights, for one guided image or two without guidance, rewritten."""
    model = make(request.param)
    geometry = model.geometry(batch=2)
    graph = export(model, geometry)
    apply(graph, default_rewrites("onnxruntime", provider="cuda"))
    return Exported(model, geometry, graph)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("granularity", ["block", "layer"])
@pytest.mark.parametrize("seed", range(3))
def test_random_masks(plain: Exported, granularity: str, precision: str, seed: int, tmp_path: Path) -> None:
    graph = plain.onnx.clone()
    in_precision(graph, precision, plain.model.inputs(plain.geometry))
    mask = random_mask(plain, granularity, seed)
    distilled = "timestep_cond" in (spec.name for spec in plain.model.inputs(plain.geometry))
    chosen = replace(options(precision), images=2 if distilled else 1)
    accepted = TOLERANCES[precision]
    exported = replace(plain, onnx=graph)
    assert_parity(exported, mask, chosen, tmp_path / "m.dipgo", seed, accepted.noise_pred, accepted.latents)


@pytest.fixture(scope="module", params=PRECISIONS)
def trained(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """models/tiny-sd under its trained mask, 50 calls."""
    path = tmp_path_factory.mktemp(request.param) / "tiny-sd.dipgo"
    mask = Mask.load(repository / "models" / "tiny-sd" / "masks" / "ddim50_0.80.json")
    return build(
        mask, source=str(repository / "models" / "tiny-sd"), output=path, options=options(request.param)
    ).path


def image(session: Session, inputs: Example) -> Array:
    return session.denoise(inputs.latents, inputs.conditions, guidance_scale=3.0, draws=inputs.draws)


def test_the_trained_mask(trained: Path) -> None:
    compare(trained).check()


@pytest.fixture
def strict() -> Iterator[None]:
    """An engine that runs without a CUDA graph says so in a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def test_every_engine_is_captured_and_replays_what_it_computes(trained: Path, strict: None) -> None:
    """Images differ from one another, so a replay that reads old inputs shows. The two runtimes may choose
    other algorithms for convolutions, so they agree to the precision's tolerance alone.
    """
    with Runtime.load(trained) as captured, Runtime.load(trained, cuda_graphs=False) as plain:
        replayed, fresh = captured.session(), plain.session()
        for seed in (0, 1, 0):
            inputs = example_inputs(captured.plan, seed)
            accepted = TOLERANCES[captured.plan.target.precision].latents
            assert relative_l2(image(replayed, inputs), image(fresh, inputs)) <= accepted


def test_what_runs_touch_is_on_the_gpu_and_little_crosses(trained: Path) -> None:
    class Counting(DeviceMemory):
        nbytes_sent = nbytes_fetched = 0

        def upload(self, array: Array, buffer: ort.OrtValue) -> None:
            self.nbytes_sent += array.nbytes
            super().upload(array, buffer)

        def download(self, buffer: ort.OrtValue, array: Array) -> None:
            self.nbytes_fetched += array.nbytes
            super().download(buffer, array)

    backend = OnnxRuntimeBackend("cuda")
    bundle = open_bundle(trained)
    memory = Counting("cuda", backend._sum_engine)
    session = Session(bundle.plan, backend.open(bundle, LoadOptions()), memory)
    program = bundle.plan.program
    values = touched_by_device(program)
    assert {session._residence[name].device_name() for name in values} == {"cuda"}
    inputs = example_inputs(bundle.plan)
    image(session, inputs)
    memory.nbytes_sent = memory.nbytes_fetched = 0
    image(session, inputs)
    shared = values & touched_by_host(program) - program.constants.keys()
    samples = {call.sample for call in program.calls}
    answers = {name for call in program.calls for name in call.noise_preds}
    sent = shared & {*program.inputs, *samples}
    assert memory.nbytes_sent == sum(program.specs[name].nbytes for name in sent)
    assert memory.nbytes_fetched == sum(program.specs[name].nbytes for name in answers)


def test_threads_share_captured_engines(trained: Path) -> None:
    with Runtime.load(trained) as runtime:
        seeds = [example_inputs(runtime.plan, seed) for seed in range(4)]
        alone = [image(runtime.session(), inputs) for inputs in seeds]
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda inputs: image(runtime.session(), inputs), seeds))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
