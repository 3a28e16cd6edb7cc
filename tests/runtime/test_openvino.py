"""The second backend: the same bundles, other arithmetic, the same answers. And which combinations exist."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import toy
from onnx import helper

from dipgo_compile.backends import registry
from dipgo_compile.backends.registry import check_target, make_backend
from dipgo_compile.bundle import PLAN, open_bundle, write_bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.formats.plan_json import checksum
from dipgo_compile.plan import Target
from dipgo_compile.program import TensorSpec
from dipgo_compile.runtime import Runtime

ov = pytest.importorskip("openvino")
TOLERANCE = 1e-5  # as in test_executor
BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
FLOAT = onnx.TensorProto.FLOAT
SHAPE = (4, 1024)
SQUARE = (64, 64)


@pytest.fixture(scope="module")
def loaded(pristine: Path) -> Iterator[Runtime]:
    with Runtime.load(pristine, backend="openvino", threads=1) as runtime:
        yield runtime


def arguments(seed: int = 0) -> dict[str, Any]:
    image = toy.image(seed)
    return {
        "latents": image["latents"],
        "draws": [image["draw"]],
        "text": image["text"],
        "guidance_scale": 3.0,
    }


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    """``double`` = 2 ``a`` and ``both`` = ``a`` + ``b``."""
    nodes = [helper.make_node("Add", ["a", "a"], ["double"]), helper.make_node("Add", ["a", "b"], ["both"])]
    values = {
        name: helper.make_tensor_value_info(name, FLOAT, SHAPE) for name in ("a", "b", "double", "both")
    }
    graph = helper.make_graph(nodes, "g", [values["a"], values["b"]], [values["double"], values["both"]])
    file = tmp_path / "engine.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), file)
    return file


def test_a_bundle_built_for_another_backend_denoises(loaded: Runtime) -> None:
    assert loaded.plan.target.backend == "onnxruntime"
    image = toy.image()
    expected = toy.expected(image["latents"], image["text"], image["draw"], 3.0)
    np.testing.assert_allclose(loaded.denoise(**arguments()), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_plan_s_own_backend_is_used(tmp_path: Path) -> None:
    plan = replace(toy.plan(), target=Target("cpu", "fp32", "openvino"))
    write_bundle(tmp_path / "b.dipgo", plan, toy.write_engines, toy.MASK)
    code = "import sys, dipgo_compile; dipgo_compile.Runtime.load(sys.argv[1]); print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "b.dipgo"], capture_output=True, text=True, check=True
    )
    modules = set(ran.stdout.split())
    assert "openvino" in modules
    assert not modules & {"onnxruntime", "onnx", "torch"}


def test_threads_share_the_engines(loaded: Runtime) -> None:
    """Every thread binds runs of its own; requests of one compiled model wait for each other."""
    serial = [loaded.denoise(**arguments(seed)) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda seed: loaded.denoise(**arguments(seed)), range(8)))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_memory_mode_low_changes_no_result(pristine: Path, loaded: Runtime) -> None:
    """Threads overlap here too: one gives memory back that another may be about to use."""
    with (
        Runtime.load(pristine, backend="openvino", memory="low", threads=1) as low,
        ThreadPoolExecutor(4) as pool,
    ):
        results = list(pool.map(lambda seed: low.denoise(**arguments(seed)), range(8)))
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result, loaded.denoise(**arguments(seed)))


def test_bound_runs_read_and_write_the_caller_s_memory(engine_file: Path) -> None:
    backend = make_backend(Target("cpu", "fp32", "openvino"))
    engine = backend.open_file("e", engine_file, ("b", "a"), ("both", "double"), threads=1)
    a, b, both, double = (np.zeros(SHAPE, np.float32) for _ in range(4))
    b.flags.writeable = False  # as a plan's constants are
    run = engine.bind([b, a], [both, double])
    only = np.zeros(SHAPE, np.float32)
    partial = engine.bind([b, a], [None, only])
    for value in (1.0, 2.0):
        a.fill(value)
        run()
        partial()
        assert (both == value).all()
        assert (double == 2 * value).all()
        assert (only == 2 * value).all()


@pytest.mark.skipif(not BF16, reason="this processor has no bfloat16")
def test_bf16_rounds_inside_and_leaves_float32_outside(tmp_path: Path) -> None:
    a, b = (np.random.default_rng(seed).uniform(size=SQUARE).astype(np.float32) for seed in (0, 1))
    values = [helper.make_tensor_value_info(name, FLOAT, SQUARE) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "e.onnx")
    worst = {}
    for precision in ("fp32", "bf16"):
        backend = make_backend(Target("cpu", precision, "openvino"))
        found = np.zeros(SQUARE, np.float32)
        backend.open_file("e", tmp_path / "e.onnx", ("a", "b"), ("c",), threads=1).bind([a, b], [found])()
        worst[precision] = np.abs(found / (a @ b) - 1).max()
    assert worst["fp32"] < 1e-5
    # bfloat16 has 8 bits: each factor, and perhaps the result, is off by up to half a unit in the last place.
    assert 1e-5 < worst["bf16"] <= 3 * 2**-8


def test_an_engine_that_is_no_model_is_named(bundle: Path) -> None:
    size = (bundle / "early.onnx").stat().st_size
    rest = size - 3  # a model with a producer's name, which is long, and no graph
    (bundle / "early.onnx").write_bytes(bytes([0x12, rest & 0x7F | 0x80, rest >> 7]) + b"x" * rest)
    with pytest.raises(BackendError, match="OpenVINO refuses the engine 'early'") as caught:
        Runtime.load(bundle, backend="openvino", verify=False)
    assert len(caught.value.what.splitlines()) == 1


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, SHAPE) for name in ("a", "b")]
    graph = helper.make_graph(
        [helper.make_node("Fold", ["a"], ["b"], domain="x")], "g", values[:1], values[1:]
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("x", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "e.onnx")
    with pytest.raises(BackendError, match=r"x\.Fold") as caught:
        make_backend(Target("cpu", "fp32", "openvino")).open_file("e", tmp_path / "e.onnx", ("a",), ("b",))
    assert "build --backend openvino" in str(caught.value)


def test_an_engine_that_does_not_fit_its_values_is_refused(tmp_path: Path) -> None:
    """OpenVINO checks buffers against the model: no plan can make it write beyond them."""
    plan = toy.plan()
    specs = {**plan.program.specs, "h0": TensorSpec("float32", (1, 2, 4, 4))}
    program = replace(plan.program, specs=specs)
    plan = replace(plan, program=program, memory=toy.memory(program))
    write_bundle(tmp_path / "b.dipgo", plan, toy.write_engines, toy.MASK)
    runtime = Runtime.load(tmp_path / "b.dipgo", backend="openvino", threads=1)
    with pytest.raises(BackendError, match="'early' cannot be bound"):
        runtime.denoise(**arguments())


def test_engines_with_other_tensors_than_the_plan_are_refused(engine_file: Path) -> None:
    backend = make_backend(Target("cpu", "fp32", "openvino"))
    with pytest.raises(
        BackendError, match="'e' does not have the outputs of the plan: double, spare"
    ) as caught:
        backend.open_file("e", engine_file, ("a", "b"), ("double", "spare"))
    assert caught.value.available == ("both", "double")


@pytest.mark.parametrize(
    ("target", "says", "available"),
    [
        (Target("cpu", "fp32", "abacus"), "unknown backend 'abacus'", ("onnxruntime", "openvino")),
        (Target("cuda", "fp32", "openvino"), "openvino has no execution provider 'cuda'", ("cpu",)),
        (Target("cpu", "bf16", "onnxruntime"), "onnxruntime does not compute in 'bf16' on cpu", ("fp32",)),
    ],
)
def test_combinations_that_do_not_exist(target: Target, says: str, available: tuple[str, ...]) -> None:
    for refused_by in (check_target, make_backend):
        with pytest.raises(BackendError, match=says) as caught:
            refused_by(target)
        assert caught.value.available == available


def test_the_backend_that_offers_it_is_named(pristine: Path) -> None:
    with pytest.raises(BackendError) as caught:
        Runtime.load(pristine, precision="bf16")
    assert 'use the backend "openvino" (pip install "dipgo-compile[openvino]")' in str(caught.value)
    with pytest.raises(BackendError) as caught:
        Runtime.load(pristine, backend="openvino", provider="cuda")
    assert 'use the backend "onnxruntime" (pip install "dipgo-compile[cuda]")' in str(caught.value)


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(package: str) -> Any:
        return None if package == "openvino" else importlib.util.find_spec(package)

    monkeypatch.setattr(registry, "find_spec", find)
    with pytest.raises(BackendError, match="openvino is not installed") as caught:
        make_backend(Target("cpu", "fp32", "openvino"))
    assert caught.value.available == ("onnxruntime",)
    assert 'pip install "dipgo-compile[openvino]"' in str(caught.value)


def test_a_plan_of_version_1_0_is_for_onnx_runtime(bundle: Path) -> None:
    document = json.loads((bundle / PLAN).read_text())
    assert document["version"] == [1, 1]
    document["version"] = [1, 0]
    del document["target"]["backend"]
    del document["checksum"]
    (bundle / PLAN).write_text(json.dumps({**document, "checksum": checksum(document)}))
    assert open_bundle(bundle).plan.target == Target("cpu", "fp32", "onnxruntime")
