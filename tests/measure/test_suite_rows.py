"""The rows of suites, and the masks of their cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import cuda

from benchmarks import mask_rules
from benchmarks.rows import deepcache, supernet_compile, torch_compile
from dipgo_compile import bench
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.bench import BenchOptions
from dipgo_compile.build import BuildOptions, Exported, build
from dipgo_compile.bundle import open_bundle
from dipgo_compile.errors import BackendError
from dipgo_compile.macs.counts import count_macs
from dipgo_compile.mask import Mask
from dipgo_compile.measure.comparison import TOLERANCES, relative_l2
from dipgo_compile.measure.rows import DENSE, Job, dense, plan, prepare, supernet, torch
from dipgo_compile.models.source import load

# fp32, six calls: sums in other orders differ by 1e-6, a wrong cache by more than 1e-2.
TOLERANCE = 1e-4
MASKS = Path(__file__).parents[2] / "benchmarks" / "masks"


@pytest.fixture(scope="module")
def job(pipeline: Path, exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """DeepCache's mask over six calls, of which two are whole."""
    path = tmp_path_factory.mktemp("deepcache")
    mask = mask_rules.make("deepcache", load(str(pipeline)), steps=6)
    opened = open_bundle(build(mask, output=path / "small.dipgo", exported=exported).path)
    prepare.store_inputs(opened, path)
    prepare.store_dense(opened, str(pipeline), path)
    return bench._job(opened, BenchOptions(threads=1), str(path))


def test_the_deepcache_package_computes_what_the_mask_says(job: Job) -> None:
    image = deepcache.load(job)
    first = image()
    np.testing.assert_allclose(first, plan.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(image(), first, rtol=TOLERANCE, atol=TOLERANCE)  # nothing stays in its cache
    assert np.abs(first - dense.load(job)()).max() > 100 * TOLERANCE


@pytest.mark.parametrize("row", [plan, dense, torch, supernet, deepcache])
def test_an_image_can_stop_early(job: Job, row: Any) -> None:
    image = row.load(job)
    whole = image()
    assert image(calls=2) is None
    np.testing.assert_allclose(image(), whole, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow  # it compiles some hundred kernels
def test_torch_compile_gives_what_torch_gives(job: Job) -> None:
    np.testing.assert_allclose(torch_compile.load(job)(), torch.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
def test_a_compiled_supernet_gives_what_the_supernet_gives(job: Job) -> None:
    image = supernet_compile.load(job)
    np.testing.assert_allclose(image(), supernet.load(job)(), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(scope="module")
def half(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The same for a GPU, in float16."""
    path = tmp_path_factory.mktemp("half")
    mask = mask_rules.make("deepcache", load(str(pipeline)), steps=6)
    options = BuildOptions(provider="cuda", precision="fp16")
    opened = open_bundle(build(mask, output=path / "small.dipgo", options=options).path)
    prepare.store_inputs(opened, path)
    prepare.store_dense(opened, str(pipeline), path)
    return bench._job(opened, BenchOptions(threads=1), str(path))


def test_the_baseline_of_a_plan_in_float16_is_too(half: Job) -> None:
    graph = onnx.load(Path(half.workspace) / DENSE, load_external_data=False).graph
    outside = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert outside == {onnx.TensorProto.FLOAT}
    large = [tensor for tensor in graph.initializer if tensor.external_data]
    assert [t.name for t in large if t.data_type != onnx.TensorProto.FLOAT16 and "time" not in t.name] == []


def test_the_baseline_computes_on_a_device_as_it_does_here(half: Job, job: Job) -> None:
    """The device is this CPU. Noise and conditions are those of the plan in float32."""
    here, there = (dense.loop(half, OnnxRuntimeBackend(device=device)) for device in (None, "cpu"))
    expected = here()
    for _ in range(2):
        np.testing.assert_array_equal(there(), expected)
    assert relative_l2(expected, torch.load(job)()) < TOLERANCES["fp16"].latents


@pytest.mark.skipif(cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("row", [torch, supernet])
def test_rows_of_pytorch_follow_a_plan_to_its_gpu(half: Job, row: Any) -> None:
    with pytest.raises(BackendError, match="PyTorch finds no GPU"):
        row.load(half)


def test_masks_by_rule(pipeline: Path) -> None:
    model = load(str(pipeline), weights=False)
    whole, *others = mask_rules.make("deepcache", model, steps=6).keep
    assert all(whole) and others[4] == whole
    blocks = model.blocks("layer")
    kept = [block for block, keeps in zip(blocks, others[0], strict=True) if keeps]
    assert kept == ["up_blocks.1.resnets.1", "up_blocks.1.attentions.1"]
    assert all(all(row) for row in mask_rules.make("all", model, steps=3).keep)


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("sd15_ddim50_released_0.80.json", 0.2),
        ("sd15_ddim50_layer_0.5.json", 0.5),
        ("sd15_ddim50_layer_0.3.json", 0.3),
        ("bk-sdm-small_ddim20_layer_0.3.json", 0.3),
        ("bk-sdm-base_ddim20_layer_0.3.json", 0.3),
        ("sd21_ddim20_layer_0.3.json", 0.3),
        ("dit-xl-2_ddim20_residual_0.4.json", 0.4),
        ("pixart-alpha-512_ddim20_residual_0.4.json", 0.4),
    ],
)
def test_committed_masks_keep_what_their_names_say(file: str, kept: float) -> None:
    mask = Mask.load(MASKS / file)
    model = load(mask.model.source, weights=False)
    assert mask.model.config_sha256 == model.config_sha256
    ratio = mask.macs_ratio(count_macs(model, model.geometry(1), mask.blocks))
    assert ratio == pytest.approx(kept, abs=0.0125)  # heuristics.RATIO_TOLERANCE
