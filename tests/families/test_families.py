"""Every family, and every kind of condition, from export to a compiled plan and a training step."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dipgo_trainer.cascade import Topology
from dipgo_trainer.config import TrainConfig
from dipgo_trainer.samples import random_conditions
from dipgo_trainer.supernet import SuperNet
from dipgo_trainer.train import Task, Trainer

from dipgo_compile.build import Exported, check, compile_plan
from dipgo_compile.export import export
from dipgo_compile.macs.counts import count_macs
from dipgo_compile.mask import Mask, ModelRef
from dipgo_compile.models.base import GRANULARITIES
from dipgo_compile.models.source import Model
from dipgo_compile.partition import partition
from dipgo_compile.program import PROLOGUE
from dipgo_compile.rewrites import apply, default_rewrites
from dipgo_compile.schedulers import scheduler_ref
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


def test_conditions_are_read_once_an_image_and_timesteps_never(name: str, exported: Exported) -> None:
    """What they alone decide is hoisted and folded. A DiT's class is added to the timestep first."""
    model = exported.model
    mask = random_mask(model, "block", seed=0)
    dense = replace(mask, keep=((True,) * len(mask.blocks),) * mask.calls)
    schedule = check(dense, model)
    plan = compile_plan(model, exported.geometry, exported.onnx, dense, schedule, options())
    calls = [run for run in plan.program.runs() if run.call != PROLOGUE]
    read = {value for run in calls for value in run.inputs}
    assert read.isdisjoint(CONDITIONS[name]) is (name != "dit")
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
