"""Every family, and every kind of condition, from export to a compiled plan and a training step."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dipgo_trainer.cascade import Topology
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.samples import random_conditions
from dipgo_trainer.supernet import SuperNet
from dipgo_trainer.train import Task, Trainer

from dipgo_compile.backends.base import LoadOptions
from dipgo_compile.backends.onnxruntime import OnnxRuntimeBackend
from dipgo_compile.build import Exported, check, compile_plan, write
from dipgo_compile.bundle import open_bundle
from dipgo_compile.graphs.export import export
from dipgo_compile.graphs.float16 import in_precision
from dipgo_compile.graphs.partition import partition
from dipgo_compile.macs.counts import count_macs
from dipgo_compile.mask import Mask, ModelRef
from dipgo_compile.measure.comparison import TOLERANCES
from dipgo_compile.measure.example import example_inputs
from dipgo_compile.models.base import GRANULARITIES
from dipgo_compile.models.source import Model
from dipgo_compile.program import PROLOGUE
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.running.residence import device_sums, touched_by_device, touched_by_host
from dipgo_compile.runtime import Runtime
from dipgo_compile.schedules.schedulers import scheduler_ref
from tests.compiler.reference import assert_parity, options
from tests.families.tiny import make

# Those that add something to Stable Diffusion 1.5, which tests/compiler covers.
CONDITIONS = {
    "sd21": ("encoder_hidden_states",),
    "lcm-sdxl": ("encoder_hidden_states", "timestep_cond", "text_embeds", "time_ids"),
    "bk-sdm-small": ("encoder_hidden_states",),
    "dit": ("class_labels",),
    "pixart-alpha": ("encoder_hidden_states", "encoder_attention_mask", "resolution", "aspect_ratio"),
}
STEPS = 5


TRANSFORMERS = tuple(name for name in CONDITIONS if name == "dit" or name.startswith("pixart"))


@pytest.fixture(scope="module", params=CONDITIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(name: str) -> Exported:
    """A tiny denoiser for one guided image, as the exporter gave it."""
    model = make(name)
    geometry = model.geometry(batch=2)
    return Exported(model, geometry, export(model, geometry))


@pytest.fixture(scope="module")
def exported(plain: Exported) -> Exported:
    """The same, rewritten as ``build`` does."""
    graph = plain.onnx.clone()
    apply(graph, default_rewrites("onnxruntime"))
    return Exported(plain.model, plain.geometry, graph)


@pytest.fixture(scope="module")
def half(plain: Exported) -> Exported:
    """Rewritten for a GPU, in float16."""
    graph = plain.onnx.clone()
    apply(graph, default_rewrites("onnxruntime", provider="cuda"))
    in_precision(graph, "fp16", plain.model.inputs(plain.geometry))
    return replace(plain, onnx=graph)


def random_mask(model: Model, granularity: str, seed: int) -> Mask:
    """Rows of every density in the model's own schedule; the first is whole. Whole blocks of a transformer
    reuse their residuals, as such masks usually do.
    """
    generator = random.Random(seed)
    blocks, schedule = model.blocks(granularity), scheduler_ref(None, model, STEPS)
    densities = [1.0, *(generator.choice([0.3, 0.7, 1.0]) for _ in schedule.timesteps[1:])]
    keep = tuple(tuple(generator.random() < density for _ in blocks) for density in densities)
    return Mask(
        ModelRef(model.source, model.class_name, model.config_sha256),
        schedule,
        blocks,
        keep,
        reuse="residual" if granularity == "block" and "Transformer" in model.class_name else "output",
        provenance={"blocks": granularity},
    )


def test_the_graph_has_the_denoisers_inputs_flat_and_by_name(name: str, plain: Exported) -> None:
    specs = plain.model.inputs(plain.geometry)
    found = [(value.name, value.shape.numpy()) for value in plain.onnx.graph.inputs]
    assert found == [(spec.name, spec.spec.shape) for spec in specs]
    graph = partition(plain.onnx, plain.model.blocks(), specs)
    assert graph.conditions == CONDITIONS[name]


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_blocks_are_in_order_and_hold_the_work(exported: Exported, granularity: str) -> None:
    model = exported.model
    blocks = model.blocks(granularity)
    graph = partition(exported.onnx, blocks, model.inputs(exported.geometry))
    assert tuple(block.name for block in graph.blocks if block.scope is not None) == blocks
    macs = count_macs(model, exported.geometry, blocks)
    assert min(macs.by_scope.values()) > 0
    assert macs.glue < 0.2 * macs.total


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_random_mask(exported: Exported, granularity: str, tmp_path: Path) -> None:
    mask = random_mask(exported.model, granularity, seed=len(granularity))
    distilled = "timestep_cond" in (spec.name for spec in exported.model.inputs(exported.geometry))
    images = 2 if distilled else 1  # a guided one, or two without guidance
    assert_parity(exported, mask, options(images=images), tmp_path / "m.dipgo", seed=0)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_random_mask_in_float16(half: Exported, granularity: str, tmp_path: Path) -> None:
    """As on a GPU, but the device is this CPU, which computes some operators in float32 between casts."""
    mask = random_mask(half.model, granularity, seed=len(granularity))
    distilled = "timestep_cond" in (spec.name for spec in half.model.inputs(half.geometry))
    chosen = options(images=2 if distilled else 1, provider="cuda", precision="fp16")
    path, backend = tmp_path / "m.dipgo", OnnxRuntimeBackend(device="cpu")
    accepted = TOLERANCES["fp16"]
    assert_parity(half, mask, chosen, path, 0, accepted.noise_pred, accepted.latents, backend)
    program = open_bundle(path).plan.program
    runs = [run for run in program.runs() if run.call != PROLOGUE]
    written = {name for run in runs for name in run.outputs if name is not None}
    answers = {name for call in program.calls for name in call.noise_preds}
    assert {program.specs[name].dtype for name in written - answers} <= {"float16"}
    assert {program.specs[name].dtype for name in (*program.inputs, *answers)} <= {"float32", "int64"}


@pytest.mark.parametrize("name", TRANSFORMERS, indirect=True, scope="module")
def test_residuals_are_summed_where_blocks_compute(exported: Exported, tmp_path: Path) -> None:
    """On a device nothing but samples and predictions crosses; what comes out is the same to the last bit."""
    mask = random_mask(exported.model, "block", seed=3)
    assert mask.reuse == "residual"
    plan = compile_plan(
        exported.model,
        exported.geometry,
        exported.onnx,
        mask,
        check(mask, exported.model),
        options(fuse="none"),
    )
    sums, program = device_sums(plan.program), plan.program
    crossing = touched_by_device(program) & touched_by_host(program) - program.constants.keys()
    calls = {name for call in program.calls for name in (call.sample, *call.noise_preds)}
    assert sums and crossing <= calls | {*program.inputs}
    write(tmp_path / "m.dipgo", plan, exported.onnx, mask)
    bundle, inputs = open_bundle(tmp_path / "m.dipgo"), example_inputs(plan)
    images = []
    for device in (None, "cpu"):
        with Runtime(bundle, OnnxRuntimeBackend(device=device), LoadOptions(threads=1)) as runtime:
            images.append(runtime.session().denoise(inputs.latents, inputs.conditions))
    np.testing.assert_array_equal(*images)


def test_conditions_are_read_once_an_image_and_timesteps_never(name: str, exported: Exported) -> None:
    """What they decide, alone or with the timestep, is hoisted, and what the timestep decides is folded."""
    model = exported.model
    mask = random_mask(model, "block", seed=0)
    dense = replace(mask, keep=((True,) * len(mask.blocks),) * mask.calls)
    schedule = check(dense, model)
    plan = compile_plan(model, exported.geometry, exported.onnx, dense, schedule, options())
    calls = [run for run in plan.program.runs() if run.call != PROLOGUE]
    read = {value for run in calls for value in run.inputs}
    assert read.isdisjoint(CONDITIONS[name])
    assert not any(value.startswith("timestep@") for value in read)
    assert len({run.engine for run in calls}) == 1  # every call is like the first


def test_a_training_step_moves_the_gates(plain: Exported) -> None:
    model = plain.model
    blocks = model.blocks()
    macs = count_macs(model, plain.geometry, blocks)
    graph = partition(plain.onnx, blocks, model.inputs(plain.geometry))
    task = Task(
        model=model,
        scheduler=scheduler_ref(None, model, 3),
        topology=Topology(blocks, graph.consumers(), tuple(macs.by_scope.values()), macs.glue),
        conditions=random_conditions(model, seed=0),
    )
    trainer = Trainer(task, TrainConfig(train_steps=1, samples=1, consistency_weight=1.0))
    before = trainer.scores()
    with SuperNet(model.denoiser, blocks) as net:
        record = trainer.advance(net)
    assert record.kept == 1.0
    assert torch.isfinite(torch.tensor(record.loss))
    assert (trainer.scores() != before).any()
